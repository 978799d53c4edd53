package main

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// echoServer answers every call with the text it got and its own name.
type echoServer string

// echoMethod is the one method of the test's gRPC service: text to text.
const echoMethod = "/workload.Echo/Say"

var echoService = grpc.ServiceDesc{
	ServiceName: "workload.Echo",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{
		MethodName: "Say",
		Handler: func(srv any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			var in wrapperspb.StringValue
			if err := decode(&in); err != nil {
				return nil, err
			}
			return wrapperspb.String(string(srv.(echoServer)) + " " + in.Value), nil
		},
	}},
}
