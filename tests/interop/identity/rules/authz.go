// gRPC's authorization policies as grpc-go decides by them: a server whose calls name the policy that they are held to.
//
//	grpc-authz POLICIES CERT KEY ROOT ADDRESS
//
// POLICIES is a JSON list of policies; `x-policy` of a call is the number of one.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"log"
	"net"
	"os"
	"strconv"

	"google.golang.org/grpc"
	"google.golang.org/grpc/authz"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	text, err := os.ReadFile(os.Args[1])
	check(err)
	var policies []json.RawMessage
	check(json.Unmarshal(text, &policies))
	var judges []*authz.StaticInterceptor
	for number, policy := range policies {
		judge, err := authz.NewStatic(string(policy))
		if err != nil {
			log.Fatalf("policy %d: %v", number, err)
		}
		judges = append(judges, judge)
	}
	pair, err := tls.LoadX509KeyPair(os.Args[2], os.Args[3])
	check(err)
	root, err := os.ReadFile(os.Args[4])
	check(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(root)
	config := &tls.Config{
		Certificates: []tls.Certificate{pair},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    roots,
	}
	choose := func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		sent, _ := metadata.FromIncomingContext(stream.Context())
		named := sent.Get("x-policy")
		if len(named) != 1 {
			return status.Error(codes.InvalidArgument, "no policy is named")
		}
		number, err := strconv.Atoi(named[0])
		if err != nil || number < 0 || number >= len(judges) {
			return status.Error(codes.InvalidArgument, "there is no such policy")
		}
		return judges[number].StreamInterceptor(srv, stream, info, next)
	}
	server := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(config)),
		grpc.StreamInterceptor(choose),
		grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error { return nil }),
	)
	listener, err := net.Listen("tcp", os.Args[5])
	check(err)
	check(server.Serve(listener))
}
