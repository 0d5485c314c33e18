package setup

import (
	"os"

	"github.com/matrix-org/dendrite/internal"
	"github.com/matrix-org/dendrite/setup/config"
	"github.com/sirupsen/logrus"

	"github.com/matrix-org/dendrite/futures/setup/base/patched"
)

const version = "0.1.0"

// Version names the project's version, that of the Dendrite in it, and with what that was patched.
func Version() string {
	return "Dendrite with native futures " + version + " (Dendrite " + internal.VersionString() + ", " + patched.Base + ")"
}

// StartLogging sets up the process's log as the configuration says. With stderrOnly it goes to standard
// error alone, from the level of the configuration's std entry on.
func StartLogging(cfg *config.Dendrite, stderrOnly bool) {
	internal.SetupStdLogging()
	internal.SetupPprof()
	if !stderrOnly {
		internal.SetupHookLogging(cfg.Logging)
		return
	}
	logrus.SetOutput(os.Stderr)
	for _, hook := range cfg.Logging {
		if level, err := logrus.ParseLevel(hook.Level); hook.Type == "std" && err == nil {
			logrus.SetLevel(level)
		}
	}
}
