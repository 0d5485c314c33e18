package setup

import (
	"errors"

	"github.com/matrix-org/dendrite/setup/config"
	"github.com/sirupsen/logrus"
)

// Reloader reloads what can change while the server runs: the certificate for HTTPS and the log level.
type Reloader struct {
	server     *Server
	configPath string
	stderrOnly bool         // as for StartLogging
	level      logrus.Level // the configured level at the last reload
}

// NewReloader returns a Reloader for a server that was started with that configuration.
func NewReloader(s *Server, configPath string, cfg *config.Dendrite, stderrOnly bool) *Reloader {
	r := &Reloader{server: s, configPath: configPath, stderrOnly: stderrOnly}
	r.level, _ = levelOf(cfg, stderrOnly)
	return r
}

// Reload reloads and logs the result. If there is an error, the old value stays.
func (r *Reloader) Reload() {
	if err := errors.Join(r.reloadLevel(), r.server.front.reloadCertificate()); err != nil {
		logrus.WithError(err).Error("Cannot reload everything; settings with errors keep their old values")
		return
	}
	logrus.Warn("Reloaded the certificate for HTTPS and the level of the log; other settings need a restart")
}

// reloadLevel changes the level if the configuration has changed it. If several logs have levels, each keeps its own as
// a limit, because Dendrite sets it once.
func (r *Reloader) reloadLevel() error {
	cfg, err := config.Load(r.configPath)
	if err != nil {
		return err
	}
	level, ok := levelOf(cfg, r.stderrOnly)
	switch {
	case !ok:
		return errors.New("the section logging names no level")
	case level != r.level:
		r.level = level
		logrus.SetLevel(level)
	}
	return nil
}
