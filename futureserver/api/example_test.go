package api_test

import (
	"fmt"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// All tokens of a future come from one secret. Nobody can tell from a token what it is for.
func ExampleSecret_Token() {
	secret := api.Secret{1, 2, 3} // api.NewSecret() is a random one
	for _, kind := range []api.TokenKind{api.SendToken, api.CancelToken, api.RefreshToken} {
		fmt.Println(secret.Token(kind))
	}
	// Output:
	// 8BnYxW0apP3s6R4OGrq68g
	// IkgEPP0rSyLH3lItVM7qtQ
	// -r6zvEVVuowjdg8FdxUiOQ
}

// A client that repeats a request gets the same future, because the transaction gives the secret.
func ExampleTransactionSecret() {
	key := make([]byte, 32) // random, and stored in the database
	first := api.TransactionSecret(key, "@alice:example.org", []byte("transaction 1"))
	again := api.TransactionSecret(key, "@alice:example.org", []byte("transaction 1"))
	bobs := api.TransactionSecret(key, "@bob:example.org", []byte("transaction 1"))
	fmt.Println(first == again, first == bobs)
	// Output: true false
}

// ParseToken accepts exactly what String returns.
func ExampleParseToken() {
	token := api.Secret{}.Token(api.CancelToken)
	parsed, ok := api.ParseToken(token.String())
	fmt.Println(ok, parsed == token)
	_, ok = api.ParseToken(token.String() + "==")
	fmt.Println(ok)
	// Output:
	// true true
	// false
}

// The generations of the proposal differ in whose newer state ends a future.
func ExamplePolicy_Outdated() {
	own := api.StateEvent{ID: "$newer", Sender: "@alice:example.org"}
	others := api.StateEvent{ID: "$newer", Sender: "@bob:example.org"}
	for _, p := range []api.Policy{api.CancelOnNewerState, api.CancelOnOthersState, api.Managed} {
		fmt.Println(p.Outdated("$base", "@alice:example.org", own), p.Outdated("$base", "@alice:example.org", others))
	}
	// Output:
	// true true
	// false true
	// false false
}

// A filter selects futures for administrators; the zero value selects all that live.
func ExampleFilter_Matches() {
	scheduled := &api.Future{State: api.Scheduled, UserID: "@alice:example.org", Deadline: 1_700_000_000_000, Timeout: time.Hour}
	sent := &api.Future{State: api.Sent, UserID: "@alice:example.org", Finished: 1_700_000_000_000}
	for _, filter := range []api.Filter{{}, {States: api.Finished}, {UserID: "@bob:example.org"}, {Until: 1_700_000_000_000}} {
		fmt.Println(filter.Matches(scheduled), filter.Matches(sent))
	}
	// Output:
	// true false
	// false true
	// false false
	// false false
}
