package config_test

import (
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"
	"time"

	dendrite "github.com/matrix-org/dendrite/setup/config"

	"github.com/matrix-org/dendrite/futures/setup/config"
)

// write writes a dendrite.yaml into a new folder.
func write(text string) (path string, remove func()) {
	dir, err := os.MkdirTemp("", "config")
	if err != nil {
		log.Fatal(err)
	}
	path = filepath.Join(dir, "dendrite.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		log.Fatal(err)
	}
	return path, func() { os.RemoveAll(dir) }
}

// What the file does not say has its default.
func ExampleLoad() {
	path, remove := write(`
future_server:
  max_timeout: 2w
federation_api:
  allow_networks: [10.1.2.0/24]
`)
	defer remove()
	futures, networks, err := config.Load(path)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(futures.MaxTimeout, futures.MaxFuturesPerUser)
	fmt.Println(networks.Allow)
	// Output:
	// 336h0m0s 100
	// [10.1.2.0/24]
}

// Mistakes are reported with their places, all at once.
func ExampleLoad_mistakes() {
	path, remove := write(`
future_server:
  max_timout: 7d
  retention: forever
`)
	defer remove()
	_, _, err := config.Load(path)
	fmt.Println(strings.ReplaceAll(err.Error(), path, "dendrite.yaml"))
	// Output:
	// dendrite.yaml: line 3: future_server.max_timout: unknown key
	// dendrite.yaml: line 4: future_server.retention: "forever" is not a duration; write it with a unit, as in 500ms, 30s, 12h or 7d
}

func ExampleSpell() {
	fmt.Println(config.Spell(49*config.Day), config.Spell(36*time.Hour), config.Spell(90*time.Second))
	// Output: 49d 1d12h 1m30s
}

// Marshal writes both parts of the configuration, as generate-config prints them.
func ExampleMarshal() {
	var theirs dendrite.Dendrite
	theirs.Defaults(dendrite.DefaultOpts{Generate: true, SingleDatabase: true})
	var ours config.FutureServer
	ours.Defaults()
	ours.MaxTimeout = 30 * config.Day
	text, err := config.Marshal(&theirs, &ours, config.Networks{Deny: config.PrivateNetworks()})
	if err != nil {
		log.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, "max_timeout") {
			fmt.Print(strings.TrimSpace(line))
		}
	}
	// Output: max_timeout: 30d
}
