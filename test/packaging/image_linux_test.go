package packaging

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// What runs Dendrite's own image relies on these.
func TestImageIsAsDendrites(t *testing.T) {
	img := unpack(t)
	dockerfile := string(readFile(t, root+"/.base/dendrite/Dockerfile"))
	entry := img.config.Entrypoint[0]
	for _, line := range []string{
		`ENTRYPOINT ["` + entry + `"]`, "WORKDIR " + img.config.WorkingDir, "EXPOSE 8008 8448", "VOLUME /etc/dendrite",
	} {
		if !strings.Contains(dockerfile, line+"\n") {
			t.Errorf("Dendrite's Dockerfile has no %s", line)
		}
	}
	var ports []string
	for port := range img.config.ExposedPorts {
		ports = append(ports, port)
	}
	slices.Sort(ports)
	if _, volume := img.config.Volumes["/etc/dendrite"]; !volume || !slices.Equal(ports, []string{"8008/tcp", "8448/tcp"}) {
		t.Errorf("ports %v, volumes %v", ports, img.config.Volumes)
	}
	for _, line := range strings.Split(dockerfile, "\n") {
		if words := strings.Fields(line); len(words) == 4 && words[1] == "--from=build" {
			if _, err := os.Stat(path(img.root, words[3])); err != nil {
				t.Error(err)
			}
		}
	}
	if img.config.User != "991:991" {
		t.Errorf("it runs as %q", img.config.User)
	}
	if text := readFile(t, path(img.root, "/etc/ssl/certs/ca-certificates.crt")); !strings.Contains(string(text), "BEGIN CERTIFICATE") {
		t.Error("there are no certificates of authorities")
	}
}

// The Dockerfile makes the same image: its last stage says the same in the same order, and has a line for each file.
func TestDockerfileMakesTheSame(t *testing.T) {
	img := unpack(t)
	_, stage, _ := strings.Cut(string(readFile(t, packDir+"/Dockerfile")), "FROM scratch\n")
	quoted := func(list []string) string {
		text, err := json.Marshal(list)
		if err != nil {
			t.Fatal(err)
		}
		return strings.ReplaceAll(string(text), ",", ", ")
	}
	want := []string{
		"VOLUME /etc/dendrite", "WORKDIR " + img.config.WorkingDir, "USER " + img.config.User, "EXPOSE 8008 8448",
		"ENV " + img.config.Env[0], "ENTRYPOINT " + quoted(img.config.Entrypoint), " CMD " + quoted(img.config.Healthcheck.Test[1:]),
	}
	for key, value := range img.config.Labels {
		want = append(want, fmt.Sprintf("LABEL %s=%q", key, value))
	}
	err := filepath.WalkDir(img.root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := strings.CutPrefix(file, img.root)
		info, err := d.Info()
		switch {
		case err != nil:
			return err
		case strings.HasPrefix(name, "/usr/bin/"):
		case !d.IsDir() || info.Mode()&fs.ModeSticky != 0 || strings.Contains(name, "/dendrite"):
			want = append(want, " "+name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range want {
		if !strings.Contains(stage, line+"\n") {
			t.Errorf("the Dockerfile has no line with %q", line)
		}
	}
}
