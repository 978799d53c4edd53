package config

import (
	"fmt"
	"strings"
	"time"

	networking "istio.io/api/networking/v1alpha3"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/decide"
)

var localityFields = []string{
	"localityLbSetting.distribute.from", "localityLbSetting.distribute.to.**", "localityLbSetting.failover.from",
	"localityLbSetting.failover.to", "localityLbSetting.failoverPriority", "localityLbSetting.enabled",
}

var balancerFields = func() []string {
	out := []string{"loadBalancer.simple", "loadBalancer.warmupDurationSecs"}
	for _, f := range []string{
		"httpHeaderName", "httpCookie.name", "httpCookie.path", "httpCookie.ttl", "httpCookie.attributes.name", "httpCookie.attributes.value",
		"useSourceIp", "httpQueryParameterName", "minimumRingSize", "ringHash.minimumRingSize", "maglev.tableSize",
	} {
		out = append(out, "loadBalancer.consistentHash."+f)
	}
	for _, f := range []string{"duration", "minimumPercent", "aggression"} {
		out = append(out, "loadBalancer.warmup."+f)
	}
	for _, f := range localityFields {
		out = append(out, "loadBalancer."+f)
	}
	return out
}()

// balancing writes what lb says into p. Defaults are Istio's.
func balancing(p *seinev1.TrafficPolicy, lb *networking.LoadBalancerSettings) {
	switch v := lb.GetLbPolicy().(type) {
	case *networking.LoadBalancerSettings_Simple:
		switch v.Simple {
		case networking.LoadBalancerSettings_ROUND_ROBIN:
			p.Balancer = seinev1.TrafficPolicy_ROUND_ROBIN
		//lint:ignore SA1019 it is the name that 2019's resources use
		case networking.LoadBalancerSettings_LEAST_REQUEST, networking.LoadBalancerSettings_LEAST_CONN:
			p.Balancer = seinev1.TrafficPolicy_LEAST_REQUEST
		case networking.LoadBalancerSettings_RANDOM:
			p.Balancer = seinev1.TrafficPolicy_RANDOM
		case networking.LoadBalancerSettings_PASSTHROUGH:
			p.Balancer = seinev1.TrafficPolicy_PASSTHROUGH
		}
	case *networking.LoadBalancerSettings_ConsistentHash:
		if p.Hash = hashProto(v.ConsistentHash); p.Hash == nil {
			p.Balancer = seinev1.TrafficPolicy_RANDOM // as Envoy, for want of a hash
		}
	}
	switch w := lb.GetWarmup(); {
	case w != nil:
		p.Warmup = &seinev1.Warmup{Duration: w.Duration, MinimumPercent: 10, Aggression: 1}
		if w.MinimumPercent != nil {
			p.Warmup.MinimumPercent = w.MinimumPercent.Value
		}
		if w.Aggression != nil {
			p.Warmup.Aggression = w.Aggression.Value
		}
	case lb.GetWarmupDurationSecs() != nil:
		p.Warmup = &seinev1.Warmup{Duration: lb.GetWarmupDurationSecs(), MinimumPercent: 10, Aggression: 1}
	}
	p.Locality = localityProto(lb.GetLocalityLbSetting())
}

func hashProto(c *networking.LoadBalancerSettings_ConsistentHashLB) *seinev1.ConsistentHash {
	h := &seinev1.ConsistentHash{}
	switch k := c.GetHashKey().(type) {
	case *networking.LoadBalancerSettings_ConsistentHashLB_HttpHeaderName:
		h.Key = &seinev1.ConsistentHash_Header{Header: strings.ToLower(k.HttpHeaderName)}
	case *networking.LoadBalancerSettings_ConsistentHashLB_HttpQueryParameterName:
		h.Key = &seinev1.ConsistentHash_Query{Query: k.HttpQueryParameterName}
	case *networking.LoadBalancerSettings_ConsistentHashLB_UseSourceIp:
		if !k.UseSourceIp {
			return nil
		}
		h.Key = &seinev1.ConsistentHash_SourceIp{SourceIp: true}
	case *networking.LoadBalancerSettings_ConsistentHashLB_HttpCookie:
		cookie := &seinev1.ConsistentHash_Cookie{Name: k.HttpCookie.GetName(), Path: k.HttpCookie.GetPath(), Ttl: k.HttpCookie.GetTtl()}
		for _, a := range k.HttpCookie.GetAttributes() {
			cookie.Attributes = append(cookie.Attributes, &seinev1.Header{Name: a.Name, Value: a.Value})
		}
		h.Key = &seinev1.ConsistentHash_Cookie_{Cookie: cookie}
	default:
		return nil
	}
	switch a := c.GetHashAlgorithm().(type) {
	case *networking.LoadBalancerSettings_ConsistentHashLB_Maglev:
		h.TableSize = decide.DefaultMaglev
		if n := a.Maglev.GetTableSize(); n != 0 {
			h.TableSize = uint32(min(n, decide.MaxMaglev+1))
		}
	case *networking.LoadBalancerSettings_ConsistentHashLB_RingHash_:
		h.RingSize = a.RingHash.GetMinimumRingSize()
	default:
		//lint:ignore SA1019 it is the name that 2019's resources use
		h.RingSize = c.GetMinimumRingSize()
	}
	return h
}

func localityProto(l *networking.LocalityLoadBalancerSetting) *seinev1.Locality {
	if l == nil {
		return nil
	}
	out := &seinev1.Locality{FailoverPriority: l.FailoverPriority, Disabled: l.Enabled != nil && !l.Enabled.Value}
	for _, d := range l.Distribute {
		out.Distribute = append(out.Distribute, &seinev1.Locality_Distribute{From: d.From, To: d.To})
	}
	for _, f := range l.Failover {
		out.Failover = append(out.Failover, &seinev1.Locality_Failover{From: f.From, To: f.To})
	}
	return out
}

// balancer checks loadBalancer as Istio's validateLoadBalancer does.
func (c *policyConverter) balancer(lb *networking.LoadBalancerSettings, path string) {
	if h := lb.GetConsistentHash(); h != nil {
		c.hash(h, path+".consistentHash")
	}
	length, at := lb.GetWarmupDurationSecs(), path+".warmupDurationSecs"
	if w := lb.GetWarmup(); w != nil {
		length, at = w.Duration, path+".warmup.duration"
		if length == nil {
			c.d.fail(codeDuration, at, nil, "must be written: how long a new endpoint warms up")
			return
		}
		if p := w.MinimumPercent; p != nil && !(p.Value >= 0 && p.Value <= 100) {
			c.d.fail(codeInvalid, path+".warmup.minimumPercent", nil, "must be between 0 and 100 (it is %v)", p.Value)
		}
		if a := w.Aggression; a != nil && !(a.Value >= 1) {
			c.d.fail(codeInvalid, path+".warmup.aggression", nil, "must be 1 or more (it is %v)", a.Value)
		}
	}
	if length != nil {
		if length.AsDuration() < time.Second {
			c.d.fail(codeDuration, at, nil, "must be one second or more")
		}
		simple := lb.GetSimple()
		if lb.GetConsistentHash() != nil || simple == networking.LoadBalancerSettings_RANDOM || simple == networking.LoadBalancerSettings_PASSTHROUGH {
			c.b.note(c.o, codeRuleConflict, Warning, at, "has no effect: only ROUND_ROBIN, LEAST_REQUEST and the default warm endpoints up")
		}
	}
	checkLocality(c.d, lb.GetLocalityLbSetting(), path+".localityLbSetting")
}

func (c *policyConverter) hash(h *networking.LoadBalancerSettings_ConsistentHashLB, path string) {
	nothing := func() {
		c.b.note(c.o, codeRuleConflict, Warning, path, "does not say what is hashed: requests go to endpoints at random; write httpHeaderName, httpCookie, useSourceIp or httpQueryParameterName")
	}
	switch k := h.GetHashKey().(type) {
	case nil:
		nothing()
	case *networking.LoadBalancerSettings_ConsistentHashLB_UseSourceIp:
		if !k.UseSourceIp {
			nothing()
		}
	case *networking.LoadBalancerSettings_ConsistentHashLB_HttpHeaderName:
		if k.HttpHeaderName == "" {
			c.d.fail(codeInvalid, path+".httpHeaderName", nil, "must be the name of a header")
		}
	case *networking.LoadBalancerSettings_ConsistentHashLB_HttpQueryParameterName:
		if k.HttpQueryParameterName == "" {
			c.d.fail(codeInvalid, path+".httpQueryParameterName", nil, "must be the name of a query parameter")
		}
	case *networking.LoadBalancerSettings_ConsistentHashLB_HttpCookie:
		at := path + ".httpCookie"
		if !cookieName(k.HttpCookie.GetName()) {
			c.d.fail(codeInvalid, at+".name", nil, "%q is no name of a cookie", clip(k.HttpCookie.GetName()))
		}
		if !cookieText(k.HttpCookie.GetPath()) {
			c.d.fail(codeInvalid, at+".path", nil, "%q cannot stand in a Set-Cookie", clip(k.HttpCookie.GetPath()))
		}
		if k.HttpCookie.GetTtl().AsDuration() < 0 {
			c.d.fail(codeDuration, at+".ttl", nil, "must not be negative")
		}
		for i, a := range k.HttpCookie.GetAttributes() {
			if !cookieName(a.Name) || !cookieText(a.Value) {
				c.d.fail(codeInvalid, item(at+".attributes", i), nil, "cannot stand in a Set-Cookie")
			}
		}
	}
	if m := h.GetMaglev(); m != nil && m.TableSize != 0 && (m.TableSize > decide.MaxMaglev || !decide.Prime(uint32(m.TableSize))) {
		c.d.fail(codeInvalid, path+".maglev.tableSize", nil, "must be a prime number up to %d (it is %d)", decide.MaxMaglev, m.TableSize)
	}
	//lint:ignore SA1019 it is the name that 2019's resources use
	if n := max(h.GetRingHash().GetMinimumRingSize(), h.GetMinimumRingSize()); n > decide.MaxRing {
		c.b.note(c.o, codeLimit, Warning, path, "a ring of %d entries is too large: it gets %d", n, decide.MaxRing)
	}
}

// cookieName reports whether s is a token (RFC 6265 §4.1.1).
func cookieName(s string) bool {
	return s != "" && strings.IndexFunc(s, func(r rune) bool { return !token(r) }) < 0
}

// cookieText is what an attribute of a cookie may hold (RFC 6265 §4.1.1, av-octet).
func cookieText(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r < 0x20 || r > 0x7e || r == ';' }) < 0
}

// checkLocality is Istio's validateLocalityLbSetting.
func checkLocality(d *decoder, l *networking.LocalityLoadBalancerSetting, path string) {
	if l == nil {
		return
	}
	if len(l.Distribute) > 0 && (len(l.Failover) > 0 || len(l.FailoverPriority) > 0) {
		d.fail(codeInvalid, path, nil, "distribute excludes failover and failoverPriority: keep one of them")
	}
	for i, f := range l.Failover {
		at := item(path+".failover", i)
		for field, region := range map[string]string{"from": f.From, "to": f.To} {
			if region == "" || strings.ContainsAny(region, "/*") {
				d.fail(codeInvalid, at+"."+field, nil, "%q is not a region alone", clip(region))
			}
		}
		if f.From == f.To {
			d.fail(codeInvalid, at, nil, "from and to must be different regions")
		}
	}
	from := map[string]bool{}
	for i, x := range l.Distribute {
		at := item(path+".distribute", i)
		if why := badPlace(x.From); why != "" {
			d.fail(codeInvalid, at+".from", nil, "%s", why)
		}
		if from[x.From] {
			d.fail(codeInvalid, at+".from", nil, "%q is written twice", clip(x.From))
		}
		from[x.From] = true
		sum := uint64(0)
		names := sortedKeys(x.To)
		for k, name := range names {
			if why := badPlace(name); why != "" {
				d.fail(codeInvalid, sub(at+".to", name), nil, "%s", why)
			}
			if x.To[name] < 1 || x.To[name] > 100 {
				d.fail(codeInvalid, sub(at+".to", name), nil, "must be between 1 and 100 (it is %d)", x.To[name])
			}
			sum += uint64(x.To[name])
			for _, other := range names[:k] {
				if samePlaces(name, other) {
					d.fail(codeInvalid, sub(at+".to", name), nil, "covers the same places as %q", clip(other))
				}
			}
		}
		if sum != 100 {
			d.fail(codeInvalid, at+".to", nil, "the shares must add up to 100 (it is %d)", sum)
		}
	}
	for i, label := range l.FailoverPriority {
		if name, _, _ := strings.Cut(label, "="); name == "" {
			d.fail(codeInvalid, item(path+".failoverPriority", i), nil, "%q is neither LABEL nor LABEL=VALUE", clip(label))
		}
	}
}

// badPlace says what is wrong with a locality, empty if nothing is.
func badPlace(s string) string {
	parts := strings.Split(s, "/")
	if len(parts) > 3 {
		return fmt.Sprintf("%q has more parts than REGION/ZONE/SUBZONE", clip(s))
	}
	for i, p := range parts {
		if p == "" {
			return fmt.Sprintf("%q has an empty part: write REGION/ZONE/SUBZONE", clip(s))
		}
		if strings.Contains(p, "*") && (p != "*" || i != len(parts)-1) {
			return fmt.Sprintf("%q: a * stands alone, and at the end", clip(s))
		}
	}
	return ""
}

// samePlaces reports whether one locality covers the other.
func samePlaces(a, b string) bool {
	x, y := strings.Split(a, "/"), strings.Split(b, "/")
	for i := range min(len(x), len(y)) {
		if x[i] == "*" || y[i] == "*" {
			return true
		}
		if x[i] != y[i] {
			return false
		}
	}
	return true
}

// place is a locality, by Istio's label istio-locality where it is set: there
// the parts may be separated by dots.
func place(written string, labels map[string]string) string {
	if l := labels["istio-locality"]; l != "" {
		if !strings.Contains(l, "/") {
			l = strings.ReplaceAll(l, ".", "/")
		}
		return l
	}
	return written
}
