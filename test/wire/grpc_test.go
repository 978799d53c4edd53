//go:build linux

package wire

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop"
	testpb "google.golang.org/grpc/interop/grpc_testing"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/test/sidecars"
)

// TestGRPC runs grpc-go's interoperability cases through two sidecars: all that
// need no cloud credentials. Left out are compute_engine_creds, service_account_creds,
// jwt_token_creds, oauth2_auth_token, per_rpc_creds, google_default_credentials
// and compute_engine_channel_credentials, which need them; the ORCA and xDS cases,
// which are about the client alone; and pick_first_unary, which wants a server
// that says its name, as grpc-go's does not. A case that fails ends the process.
func TestGRPC(t *testing.T) {
	for name, protocol := range map[string]seinev1.Protocol{"grpc": seinev1.Protocol_PROTOCOL_GRPC, "undeclared": seinev1.Protocol_PROTOCOL_DETECT, "http": seinev1.Protocol_PROTOCOL_HTTP} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			must(t, err)
			srv := grpc.NewServer()
			testpb.RegisterTestServiceServer(srv, interop.NewTestServer())
			go func() { _ = srv.Serve(l) }()
			t.Cleanup(srv.Stop)
			s := sidecars.Start(t, sidecars.Options{App: netip.MustParseAddrPort(l.Addr().String()), Protocol: protocol})
			cc, err := grpc.NewClient("passthrough:///"+s.Outbound, grpc.WithTransportCredentials(insecure.NewCredentials()))
			must(t, err)
			t.Cleanup(func() { _ = cc.Close() })
			tc := testpb.NewTestServiceClient(cc)
			ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
			defer cancel()
			for _, c := range []struct {
				name string
				run  func()
			}{
				{"empty_unary", func() { interop.DoEmptyUnaryCall(ctx, tc) }},
				{"large_unary", func() { interop.DoLargeUnaryCall(ctx, tc) }},
				{"client_streaming", func() { interop.DoClientStreaming(ctx, tc) }},
				{"server_streaming", func() { interop.DoServerStreaming(ctx, tc) }},
				{"ping_pong", func() { interop.DoPingPong(ctx, tc) }},
				{"empty_stream", func() { interop.DoEmptyStream(ctx, tc) }},
				{"timeout_on_sleeping_server", func() { interop.DoTimeoutOnSleepingServer(ctx, tc) }},
				{"cancel_after_begin", func() { interop.DoCancelAfterBegin(ctx, tc) }},
				{"cancel_after_first_response", func() { interop.DoCancelAfterFirstResponse(ctx, tc) }},
				{"status_code_and_message", func() { interop.DoStatusCodeAndMessage(ctx, tc) }},
				{"special_status_message", func() { interop.DoSpecialStatusMessage(ctx, tc) }},
				{"custom_metadata", func() { interop.DoCustomMetadata(ctx, tc) }},
				{"unimplemented_method", func() { interop.DoUnimplementedMethod(ctx, cc) }},
				{"unimplemented_service", func() { interop.DoUnimplementedService(ctx, testpb.NewUnimplementedServiceClient(cc)) }},
			} {
				t.Run(c.name, func(*testing.T) { c.run() })
			}
		})
	}
}
