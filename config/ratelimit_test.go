package config

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

func TestRateLimit(t *testing.T) {
	const head = "apiVersion: traffic.seine.dev/v1\nkind: RateLimit\nmetadata: {name: r, namespace: shop}\nspec:\n  selector: {matchLabels: {app: billing}}\n  limits:\n  - "
	minute, second := durationpb.New(time.Minute), durationpb.New(time.Second)
	for _, c := range []struct {
		yaml string
		want *seinev1.RateLimit
		says string
	}{
		{"requests: 100", &seinev1.RateLimit{Requests: 100, Per: second, Burst: 100}, ""},
		{"{requests: 5, per: 1m, burst: 10, ports: [8080], key: {header: X-User}}",
			&seinev1.RateLimit{Requests: 5, Per: minute, Burst: 10, Ports: []uint32{8080}, Key: &seinev1.RateLimit_Header{Header: "x-user"}, MaxKeys: 1024}, ""},
		{"{requests: 5, key: {client: true}, maxKeys: 10}", &seinev1.RateLimit{Requests: 5, Per: second, Burst: 5, Key: &seinev1.RateLimit_Client{Client: true}, MaxKeys: 10}, ""},
		{"{requests: 5, match: [{uri: {prefix: /api}, method: {exact: POST}}, {headers: {x-tier: {exact: free}}}]}",
			&seinev1.RateLimit{Requests: 5, Per: second, Burst: 5, Match: []*seinev1.HttpMatch{
				{Uri: &seinev1.StringMatch{Match: &seinev1.StringMatch_Prefix{Prefix: "/api"}}, Method: &seinev1.StringMatch{Match: &seinev1.StringMatch_Exact{Exact: "POST"}}},
				{Headers: []*seinev1.HeaderMatch{{Name: "x-tier", Value: &seinev1.StringMatch{Match: &seinev1.StringMatch_Exact{Exact: "free"}}}}},
			}}, ""},
		{"{per: 1s}", nil, "how many requests"},
		{"{requests: 1, per: 1}", nil, "must be text"},
		{"{requests: 1, per: 1us}", nil, "at least 1ms"},
		{"{requests: 1, burst: 1000, per: 24h}", nil, "take more than"},
		{"{requests: 1, ports: [0]}", nil, "between 1 and 65535"},
		{"{requests: 1, key: {}}", nil, "one of header and client"},
		{"{requests: 1, key: {client: true, header: x}}", nil, "one of header and client"},
		{"{requests: 1, key: {header: 'a b'}}", nil, "not a header's name"},
		{"{requests: 1, maxKeys: 5}", nil, "no meaning without key"},
		{"{requests: 1, key: {client: true}, maxKeys: 70000}", nil, "at most 65536"},
		{"{requests: 1, match: [{sourceLabels: {a: b}}]}", nil, "no meaning where a request arrives"},
		{"{requests: 1, match: [{url: {exact: /}}]}", nil, `no field "url"`},
		{"{requests: 1, match: [{uri: {regex: '('}}]}", nil, "not a regular expression"},
		{"{request: 1}", nil, "did you mean requests"},
	} {
		r := Build([]File{{"a.yaml", []byte(head + c.yaml + "\n")}}, Options{})
		var got *seinev1.RateLimit
		for _, l := range r.Snapshot.RateLimits {
			if got = l.Limits[0]; got.Id != "shop/r[0]" || got.Source.Line != 7 || l.Selector["app"] != "billing" {
				t.Errorf("%s: %v %v", c.yaml, got, l.Selector)
			}
			got.Id, got.Source = "", nil
		}
		says := ""
		for _, f := range r.Findings {
			says += f.Path + ": " + f.Message + "\n"
		}
		if !proto.Equal(got, c.want) || !strings.Contains(says, c.says) || (c.says == "") != (says == "") {
			t.Errorf("%s: %v, want %v; %s", c.yaml, got, c.want, says)
		}
	}
}
