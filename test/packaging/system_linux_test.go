package packaging

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// newSystem is a container whose root file system is this machine's, as it is now. What is written to it is seen only there.
func newSystem(t *testing.T) *container {
	t.Helper()
	layers := scratch(t)
	c := &container{t: t, image: &image{root: filepath.Join(layers, "root")}, log: new(bytes.Buffer)}
	c.image.config.User, c.image.config.WorkingDir = "0:0", "/"
	c.image.config.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	for _, name := range []string{"root", "upper", "work"} {
		c.must(os.Mkdir(filepath.Join(layers, name), 0o755))
	}
	root := c.image.root
	options := "lowerdir=/,upperdir=" + filepath.Join(layers, "upper") + ",workdir=" + filepath.Join(layers, "work")
	c.must(unix.Mount("overlay", root, "overlay", 0, options))
	c.must(unix.Mount("proc", path(root, "/proc"), "proc", 0, ""))
	c.must(unix.Mount("/dev", path(root, "/dev"), "", unix.MS_BIND|unix.MS_REC, ""))
	for _, name := range []string{"/tmp", "/run"} {
		c.must(unix.Mount("tmpfs", path(root, name), "tmpfs", 0, "mode=1777"))
	}
	return c
}

// install copies a program or another file into the system.
func (c *container) install(from, to string, mode os.FileMode) {
	c.t.Helper()
	target := path(c.image.root, to)
	c.must(os.MkdirAll(filepath.Dir(target), 0o755))
	c.must(os.WriteFile(target, readFile(c.t, from), mode))
	c.must(os.Chmod(target, mode))
}

// follow does what the last stage of a Dockerfile says, as far as that can be done without a network: RUN is left to the
// machine. built is the folder that an earlier stage has filled.
func (c *container) follow(dockerfile, built string) {
	c.t.Helper()
	stages := strings.Split(string(readFile(c.t, dockerfile)), "\nFROM ")
	list := func(text string) (words []string) {
		c.must(json.Unmarshal([]byte(text), &words))
		return words
	}
	for _, line := range strings.Split(stages[len(stages)-1], "\n") {
		word, rest, _ := strings.Cut(line, " ")
		switch word {
		case "WORKDIR":
			c.image.config.WorkingDir = rest
			c.must(os.MkdirAll(path(c.image.root, rest), 0o755))
		case "ENV":
			c.image.config.Env = append(c.image.config.Env, rest)
		case "CMD":
			c.image.config.Cmd = list(rest)
		case "HEALTHCHECK":
			_, command, _ := strings.Cut(rest, "CMD ")
			c.image.config.Healthcheck.Test = append([]string{"CMD"}, list(command)...)
		case "COPY":
			words := strings.Fields(rest)
			if words[0] != "--from=build" {
				c.install(filepath.Join(root, words[0]), words[1], 0o755)
				continue
			}
			found, err := filepath.Glob(filepath.Join(built, "*"))
			c.must(err)
			for _, program := range found {
				c.install(program, filepath.Join(words[2], filepath.Base(program)), 0o755)
			}
		}
	}
}

// kill ends the container without a word, as "docker kill" does.
func (c *container) kill() {
	c.t.Helper()
	c.must(c.cmd.Process.Signal(syscall.SIGKILL))
	<-c.ended
}
