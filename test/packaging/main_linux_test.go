// Package packaging tests what operators install: the container image, the Debian package, the image for Complement and
// the sample configurations, as they come out of the build. It needs no container engine: the tests run in namespaces of
// their own, where every port is free and whatever they mount or start is gone with them.
package packaging

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	inside   = "PACKAGING_INSIDE"        // set in the namespaces; the folder for all that the tests write
	programs = "PACKAGING_PROGRAMS"      // the folder of the static programs
	images   = "PACKAGING_IMAGES"        // the image, as an OCI layout
	nats     = "PACKAGING_NATS"          // the program of a NATS server
	required = "FUTURES_TEST_PACKAGES"   // "required": a machine that cannot run these tests fails them
	root     = "../.."                   // of the repository
	packDir  = root + "/setup/packaging" // what is tested
)

// TestMain builds the programs and starts this test binary again in namespaces of its own. The build comes first, since it
// may need the network.
func TestMain(m *testing.M) {
	if dir := os.Getenv(inside); dir != "" {
		if err := settle(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	if flag.Parse(); flag.Lookup("test.list").Value.String() != "" {
		os.Exit(m.Run())
	}
	code, err := outside()
	if err != nil {
		fmt.Fprintln(os.Stderr, "test/packaging:", err)
		code = 1
	}
	os.Exit(code)
}

func outside() (code int, err error) {
	if wanted, err := wanted(); err != nil || !wanted {
		return 0, err
	}
	if os.Getuid() != 0 || !namespaces() {
		if os.Getenv(required) == "required" {
			return 1, errors.New("root and the right to make namespaces are required")
		}
		fmt.Fprintln(os.Stderr, "test/packaging: skipped: it needs root and the right to make namespaces")
		return 0, nil
	}
	dir, err := os.MkdirTemp("", "packaging")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	built, err := build(dir)
	if err != nil {
		return 1, err
	}
	self := exec.Command(os.Args[0], os.Args[1:]...)
	self.Env = append(os.Environ(), inside+"="+dir, programs+"="+built, images+"="+filepath.Join(dir, "image"), nats+"="+filepath.Join(dir, "nats-server"))
	self.Stdout, self.Stderr = os.Stdout, os.Stderr
	self.SysProcAttr = isolated()
	err = self.Run()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		return 1, nil // it has said why
	}
	return 0, err
}

// wanted reports whether -run chooses any of the tests, so that others do not wait for the build.
func wanted() (bool, error) {
	chosen, _, _ := strings.Cut(flag.Lookup("test.run").Value.String(), "/")
	out, err := output(exec.Command(os.Args[0], "-test.list", cmp.Or(chosen, ".")))
	return strings.HasPrefix(out, "Test"), err
}

// isolated gives a process namespaces of its own. It is the first process in them: when it ends, the kernel ends all others.
func isolated() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS, Pdeathsig: syscall.SIGKILL}
}

func namespaces() bool {
	probe := exec.Command("true")
	probe.SysProcAttr = isolated()
	return probe.Run() == nil
}

// build makes the static programs of this machine's architecture, the image of them, and a NATS server.
func build(dir string) (string, error) {
	out, err := output(exec.Command(packDir+"/static.sh", runtime.GOARCH))
	if err != nil {
		return "", err
	}
	built := strings.TrimSpace(out)
	if _, err := output(exec.Command("go", "build", "-o", filepath.Join(dir, "nats-server"), "github.com/nats-io/nats-server/v2")); err != nil {
		return "", err
	}
	pack := exec.Command("go", "build", "-o", filepath.Join(dir, "pack"), ".")
	pack.Dir, pack.Env = packDir+"/image", append(os.Environ(), "GOWORK=off")
	if _, err := output(pack); err != nil {
		return "", err
	}
	_, err = output(exec.Command(filepath.Join(dir, "pack"), "-o", filepath.Join(dir, "image"), "-tag", "tested:now", built))
	return built, err
}

// output returns what a command prints; if it fails, the error has all that it said.
func output(cmd *exec.Cmd) (string, error) {
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s%s", cmd, err, out, &stderr)
	}
	return string(out), err
}

// settle makes the namespaces habitable: what is mounted stays in them, /proc is theirs, the loopback interface is up, and
// dir is a file system of its own, with nothing of outside in it.
func settle(dir string) error {
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	return errors.Join(
		unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""),
		unix.Mount("proc", "/proc", "proc", 0, ""),
		os.MkdirAll(filepath.Join(dir, "run"), 0o755),
		unix.Mount("tmpfs", filepath.Join(dir, "run"), "tmpfs", 0, "mode=755"),
		os.Chmod(dir, 0o755), // the tests' servers run as other users
		unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, lo),
	)
}

// scratch returns a new folder that every user can reach.
func scratch(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(filepath.Join(os.Getenv(inside), "run"), "*")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
