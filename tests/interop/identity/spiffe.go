// Asks a Workload API, as go-spiffe does, and prints what it got: its identity, the trust domains, a verified token.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

func check(what string, err error) {
	if err != nil {
		fmt.Println(what, err)
		os.Exit(1)
	}
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	client, err := workloadapi.New(ctx, workloadapi.WithAddr(os.Args[1]))
	check("client", err)
	x509, err := client.FetchX509Context(ctx)
	check("x509", err)
	own := x509.DefaultSVID()
	id, _, err := x509svid.Verify(own.Certificates, x509.Bundles)
	check("verify", err)
	fmt.Println("x509", id, own.Hint)
	for _, bundle := range x509.Bundles.Bundles() {
		fmt.Println("bundle", bundle.TrustDomain(), len(bundle.X509Authorities()))
	}
	token, err := client.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "ledger"})
	check("jwt", err)
	keys, err := client.FetchJWTBundles(ctx)
	check("keys", err)
	verified, err := jwtsvid.ParseAndValidate(token.Marshal(), keys, []string{"ledger"})
	check("token", err)
	fmt.Println("jwt", verified.ID)
}
