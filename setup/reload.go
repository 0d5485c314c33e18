package setup

import (
	"errors"

	"github.com/matrix-org/dendrite/setup/config"
	"github.com/sirupsen/logrus"
)

// Reloader reads again what can change while the server runs: the certificate for HTTPS, and the level of the log.
type Reloader struct {
	server     *Server
	configPath string
	stderrOnly bool         // as with StartLogging
	level      logrus.Level // as the configuration said last
}

// NewReloader returns one for a server that was started with that configuration.
func NewReloader(s *Server, configPath string, cfg *config.Dendrite, stderrOnly bool) *Reloader {
	r := &Reloader{server: s, configPath: configPath, stderrOnly: stderrOnly}
	r.level, _ = levelOf(cfg, stderrOnly)
	return r
}

// Reload does so, and says in the log what became of it. What has a mistake stays as it was.
func (r *Reloader) Reload() {
	if err := errors.Join(r.reloadLevel(), r.server.front.reloadCertificate()); err != nil {
		logrus.WithError(err).Error("Cannot reload everything; what has a mistake stays as it was")
		return
	}
	logrus.Warn("Reloaded the certificate for HTTPS and the level of the log; other settings need a restart")
}

// reloadLevel changes the level if the configuration has changed it. Where several logs have levels, each keeps its own as a
// bound: Dendrite sets it once.
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
