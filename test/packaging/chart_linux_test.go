package packaging

import (
	"maps"
	"os"
	"path/filepath"
	"testing"

	"gopkg.in/yaml.v3"
)

const chart = root + "/.base/dendrite/helm/dendrite"

// values reads YAML of any shape.
func values(t *testing.T, path string) (v map[string]any) {
	t.Helper()
	if err := yaml.Unmarshal(readFile(t, path), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// merge lays values over others, as Helm does.
func merge(under, over map[string]any) map[string]any {
	merged := maps.Clone(under)
	for key, value := range over {
		below, both := under[key].(map[string]any)
		above, isMap := value.(map[string]any)
		if both && isMap {
			value = merge(below, above)
		}
		merged[key] = value
	}
	return merged
}

// What Dendrite's own chart makes of our values runs. The configuration is the chart's, with what its _overrides.yaml sets;
// volumes belong to root and to the group of the patch.
func TestChart(t *testing.T) {
	v := merge(values(t, chart+"/values.yaml"), values(t, packDir+"/helm/values.yaml"))
	config := v["dendrite_config"].(map[string]any)
	section := func(name string) map[string]any { return config[name].(map[string]any) }
	section("global")["private_key"] = "/etc/dendrite/secrets/signing.key"
	section("user_api")["bcrypt_cost"] = 4
	startPostgres(t, "dendrite", "PASSWORD")

	folder := scratch(t)
	pod := service{
		ReadOnly: true, Command: []string{"--config", "/etc/dendrite/dendrite.yaml"}, Tmpfs: []string{"/tmp"},
		Volumes: []string{"./config:/etc/dendrite/"},
	}
	mounts := map[string]string{
		"./media":     section("media_api")["base_path"].(string),
		"./jetstream": section("global")["jetstream"].(map[string]any)["storage_path"].(string),
		"./search":    section("sync_api")["search"].(map[string]any)["index_path"].(string),
	}
	group := patchedGroup(t)
	for source, target := range mounts {
		pod.Volumes = append(pod.Volumes, source+":"+target)
		claim := filepath.Join(folder, source)
		if err := os.Mkdir(claim, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(claim, 0, group); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(claim, 0o775|os.ModeSetgid); err != nil {
			t.Fatal(err)
		}
	}
	c := newContainer(t, pod, folder)
	text, err := yaml.Marshal(config)
	c.must(err)
	secrets := filepath.Join(folder, "config", "secrets")
	c.must(os.Mkdir(secrets, 0o777))
	c.must(os.Chmod(secrets, 0o777)) // the image's own program makes the key; it comes from outside otherwise
	c.exec("/usr/bin/generate-keys", "-private-key", "/etc/dendrite/secrets/signing.key")
	c.must(os.WriteFile(filepath.Join(folder, "config", "dendrite.yaml"), text, 0o644))
	c.start()
	c.healthy()
	c.restarts(c.live("/usr/bin/create-account", "alice"))
}

// patchedGroup returns the group that the patch gives to volumes.
func patchedGroup(t *testing.T) int {
	t.Helper()
	var patch struct {
		Spec struct {
			Template struct {
				Spec struct {
					SecurityContext struct {
						FSGroup int `yaml:"fsGroup"`
					} `yaml:"securityContext"`
				}
			}
		}
	}
	if err := yaml.Unmarshal(readFile(t, packDir+"/helm/deployment-patch.yaml"), &patch); err != nil {
		t.Fatal(err)
	}
	return patch.Spec.Template.Spec.SecurityContext.FSGroup
}
