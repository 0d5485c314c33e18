package config

import (
	"slices"

	"github.com/matrix-org/dendrite/setup/config"
	yaml2 "gopkg.in/yaml.v2"
	"gopkg.in/yaml.v3"
)

// Marshal encodes the whole dendrite.yaml: Dendrite's configuration and ours. Load and Dendrite's own loader read the
// same back. Networks that equal the default are left out.
func Marshal(d *config.Dendrite, f *FutureServer, n Networks) ([]byte, error) {
	theirs, err := yaml2.Marshal(d) // with the library whose tags Dendrite uses
	if err != nil {
		return nil, err
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(theirs, &doc); err != nil {
		return nil, err
	}
	root := doc.Content[0]
	if err := add(root, "future_server", f); err != nil {
		return nil, err
	}
	federation := member(root, "federation_api")
	if len(n.Allow) > 0 {
		if err := add(federation, "allow_networks", n.Allow); err != nil {
			return nil, err
		}
	}
	if !slices.Equal(n.Deny, PrivateNetworks()) {
		if err := add(federation, "deny_networks", n.Deny); err != nil {
			return nil, err
		}
	}
	return yaml.Marshal(&doc)
}

func add(to *yaml.Node, key string, value any) error {
	var node yaml.Node
	if err := node.Encode(value); err != nil {
		return err
	}
	to.Content = append(to.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: key}, &node)
	return nil
}
