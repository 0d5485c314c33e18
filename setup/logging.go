package setup

import (
	"fmt"
	"os"
	"runtime/debug"

	"github.com/matrix-org/dendrite/internal"
	"github.com/matrix-org/dendrite/setup/config"
	"github.com/sirupsen/logrus"

	"github.com/matrix-org/dendrite/futures/setup/base/patched"
)

const version = "0.1.0"

// Version names the project's version and commit, the version of Dendrite, and the patches.
func Version() string {
	return fmt.Sprintf("Dendrite with native futures %s%s, on Dendrite %s, patched (%s)", version, commit(), dendriteVersion(), patched.Base)
}

// dendriteVersion removes the suffix of internal.VersionString, which is the commit of the main module, not of
// Dendrite.
func dendriteVersion() string {
	return fmt.Sprintf("%d.%d.%d", internal.VersionMajor, internal.VersionMinor, internal.VersionPatch)
}

// commit is revision, or a text for people.
func commit() string {
	if r := revision(); r != "" {
		return " (commit " + r + ")"
	}
	return ""
}

// revision returns the commit that the program was built from, or "" if the build does not know it.
func revision() (name string) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	modified := ""
	for _, setting := range info.Settings {
		switch {
		case setting.Key == "vcs.revision":
			name = setting.Value[:min(12, len(setting.Value))]
		case setting.Key == "vcs.modified" && setting.Value == "true":
			modified = "-modified"
		}
	}
	return name + modified
}

// StartLogging sets up the process's log according to the configuration. With stderrOnly it goes to standard error
// alone, with the level of the configuration's std entry.
func StartLogging(cfg *config.Dendrite, stderrOnly bool) {
	internal.SetupStdLogging()
	internal.SetupPprof()
	if !stderrOnly {
		internal.SetupHookLogging(cfg.Logging)
		return
	}
	logrus.SetOutput(os.Stderr)
	if level, ok := levelOf(cfg, true); ok {
		logrus.SetLevel(level)
	}
}

// levelOf returns the most verbose level of the configuration's logs.
func levelOf(cfg *config.Dendrite, stderrOnly bool) (level logrus.Level, ok bool) {
	for _, hook := range cfg.Logging {
		l, err := logrus.ParseLevel(hook.Level)
		if err == nil && (!stderrOnly || hook.Type == "std") {
			level, ok = max(level, l), true
		}
	}
	return level, ok
}
