package packaging

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// An image is a container image, unpacked.
type image struct {
	root   string
	config struct {
		User, WorkingDir     string
		Entrypoint, Env, Cmd []string
		ExposedPorts         map[string]struct{}
		Volumes              map[string]struct{}
		Labels               map[string]string
		Healthcheck          struct{ Test []string }
	}
}

// unpack reads the image's layout as a container engine does: index, manifest, configuration, layers.
func unpack(t *testing.T) *image {
	t.Helper()
	img := &image{root: scratch(t)}
	type descriptor struct{ Digest string }
	var index struct{ Manifests []descriptor }
	var manifest struct {
		Config descriptor
		Layers []descriptor
	}
	var config struct{ Config any }
	config.Config = &img.config
	blob := func(d descriptor) []byte {
		return readFile(t, filepath.Join(os.Getenv(images), "blobs", strings.Replace(d.Digest, ":", "/", 1)))
	}
	for _, step := range []struct {
		read func() []byte
		into any
	}{
		{func() []byte { return readFile(t, filepath.Join(os.Getenv(images), "index.json")) }, &index},
		{func() []byte { return blob(index.Manifests[0]) }, &manifest},
		{func() []byte { return blob(manifest.Config) }, &config},
	} {
		if err := json.Unmarshal(step.read(), step.into); err != nil {
			t.Fatal(err)
		}
	}
	for _, layer := range manifest.Layers {
		if err := untar(bytes.NewReader(blob(layer)), img.root); err != nil {
			t.Fatal(err)
		}
	}
	return img
}

// path is where something lies in a root file system.
func path(root, name string) string { return filepath.Join(root, strings.TrimPrefix(name, "/")) }

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func untar(from io.Reader, to string) error {
	unzipped, err := gzip.NewReader(from)
	if err != nil {
		return err
	}
	for r := tar.NewReader(unzipped); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		path := filepath.Join(to, h.Name)
		if h.Typeflag == tar.TypeDir {
			err = os.MkdirAll(path, 0o755)
		} else {
			err = writeFrom(path, r)
		}
		mode := os.FileMode(h.Mode & 0o777)
		if h.Mode&0o1000 != 0 {
			mode |= os.ModeSticky
		}
		if err = errors.Join(err, os.Chown(path, h.Uid, h.Gid), os.Chmod(path, mode)); err != nil {
			return err
		}
	}
}

func writeFrom(path string, from io.Reader) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, from)
	return errors.Join(err, f.Close())
}

// A container runs programs in an image's root file system, as the image says, or as the service of a compose file does.
type container struct {
	t       *testing.T
	image   *image
	service service
	cmd     *exec.Cmd     // the entrypoint, once started
	ended   chan struct{} // closed when it has ended
	log     *bytes.Buffer // what it says; to be read when it has ended
}

// newContainer mounts what the service wants to have mounted. The compose file's relative paths begin at folder. Volumes
// that have a name are new, so they get what the image has at their place, as with every container engine.
func newContainer(t *testing.T, s service, folder string) *container {
	t.Helper()
	c := &container{t: t, image: unpack(t), service: s, log: new(bytes.Buffer)}
	root := c.image.root
	c.must(unix.Mount(root, root, "", unix.MS_BIND, "")) // a mount of its own, which can be read-only
	c.must(os.WriteFile(filepath.Join(root, "etc/hosts"), []byte("127.0.0.1 localhost postgres nats livekit\n"), 0o644))
	c.must(os.Mkdir(filepath.Join(root, "proc"), 0o755))
	c.must(unix.Mount("proc", filepath.Join(root, "proc"), "proc", 0, ""))
	for _, volume := range s.Volumes {
		parts := strings.Split(volume, ":")
		source, target := parts[0], filepath.Join(root, parts[1])
		if strings.HasPrefix(source, "./") {
			source = filepath.Join(folder, source)
			if info, err := os.Stat(source); err == nil && info.Mode().IsRegular() {
				c.must(os.WriteFile(target, nil, 0o644))
				c.must(unix.Mount(source, target, "", unix.MS_BIND, ""))
				continue
			}
			c.must(os.MkdirAll(source, 0o755))
		} else {
			source = scratch(t)
			if info, err := os.Stat(target); err == nil {
				stat := info.Sys().(*syscall.Stat_t)
				c.must(os.Chown(source, int(stat.Uid), int(stat.Gid)))
			}
		}
		c.must(os.MkdirAll(target, 0o755))
		c.must(unix.Mount(source, target, "", unix.MS_BIND, ""))
	}
	for _, target := range s.Tmpfs {
		c.must(unix.Mount("tmpfs", filepath.Join(root, target), "tmpfs", 0, "mode=1777"))
	}
	if s.ReadOnly {
		c.must(unix.Mount("", root, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""))
	}
	return c
}

func (c *container) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// ids returns the user and group that the container runs as.
func (c *container) ids() (uid, gid int) {
	c.t.Helper()
	user := c.service.User
	if user == "" {
		user = c.image.config.User
	}
	if _, err := fmt.Sscanf(user, "%d:%d", &uid, &gid); err != nil {
		c.t.Fatalf("user %q: %v", user, err)
	}
	return uid, gid
}

// command is a program in the container, as "docker exec" runs it.
func (c *container) command(args ...string) *exec.Cmd {
	c.t.Helper()
	uid, gid := c.ids()
	cmd := exec.CommandContext(c.t.Context(), args[0], args[1:]...)
	cmd.Dir, cmd.Env = c.image.config.WorkingDir, c.image.config.Env
	for key, value := range c.service.Environment {
		cmd.Env = append(cmd.Env, key+"="+value)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: c.image.root, Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	return cmd
}

// exec runs a program that must succeed, and returns what it prints.
func (c *container) exec(args ...string) string {
	c.t.Helper()
	out, err := output(c.command(args...))
	c.must(err)
	return out
}

// start runs the image's entrypoint with the service's arguments, if it has any.
func (c *container) start() {
	c.t.Helper()
	args := c.service.Command
	if args == nil {
		args = c.image.config.Cmd
	}
	c.cmd = c.command(slices.Concat(c.image.config.Entrypoint, args)...)
	c.cmd.Stdout, c.cmd.Stderr = c.log, c.log
	c.cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWPID // when it ends, the kernel ends what it has started
	c.must(c.cmd.Start())
	c.ended = make(chan struct{})
	go func() {
		defer close(c.ended)
		_ = c.cmd.Wait() // the exit code tells
	}()
}

// stop does what "docker stop" does, and returns the exit code.
func (c *container) stop() int {
	c.t.Helper()
	c.must(c.cmd.Process.Signal(syscall.SIGTERM))
	<-c.ended
	return c.cmd.ProcessState.ExitCode()
}

// healthy asks by the image's own health check until it succeeds.
func (c *container) healthy() {
	c.t.Helper()
	test := c.image.config.Healthcheck.Test
	if len(test) < 2 || test[0] != "CMD" {
		c.t.Fatalf("the image's health check is %q", test)
	}
	eventually(c.t, func() error {
		_, err := output(c.command(test[1:]...))
		select {
		case <-c.ended:
			c.t.Fatalf("%s\n%s", c.cmd.ProcessState, c.log)
		default:
		}
		return err
	})
}
