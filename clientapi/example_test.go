package clientapi_test

import (
	"fmt"

	"github.com/matrix-org/dendrite/futures/clientapi"
	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

// A user may do three things at once and then one each ten seconds.
func ExampleNewLimit() {
	wait := clientapi.NewLimit(fconfig.RateLimit{PerSecond: 0.1, Burst: 3})
	for range 4 {
		fmt.Println(wait("@alice:example.org") > 0)
	}
	fmt.Println("bob:", wait("@bob:example.org"))
	// Output:
	// false
	// false
	// false
	// true
	// bob: 0s
}
