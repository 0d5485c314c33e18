package config

import (
	"cmp"
	"net/url"
	"path/filepath"

	"github.com/matrix-org/dendrite/internal/sqlutil"
	"github.com/matrix-org/dendrite/setup/config"
)

// ChooseDatabase fills in Database where the section names none: the global database if it is PostgreSQL,
// else what the roomserver has: its PostgreSQL database, or a file of its own beside the roomserver's SQLite
// file, so that the two do not wait for each other. A relative path is relative to the working directory,
// as all of Dendrite's are.
func (c *FutureServer) ChooseDatabase(d *config.Dendrite) error {
	db := &c.Database
	if db.ConnectionString == "" {
		db.ConnectionString = cmp.Or(d.Global.DatabaseOptions.ConnectionString, d.RoomServer.Database.ConnectionString)
		if db.ConnectionString.IsSQLite() {
			path, err := sqlutil.ParseFileURI(db.ConnectionString)
			if err != nil {
				return err
			}
			db.ConnectionString = FileDataSource(filepath.Join(filepath.Dir(path), "futureserver.db"))
		}
	}
	if db.MaxOpenConnections == 0 { // one writes, the others read
		db.MaxOpenConnections, db.MaxIdleConnections = 4, 4
	}
	return nil
}

// FileDataSource is the connection string of a SQLite file, whatever characters its path holds.
func FileDataSource(path string) config.DataSource {
	if filepath.IsAbs(path) {
		return config.DataSource((&url.URL{Scheme: "file", Path: filepath.ToSlash(path)}).String())
	}
	return config.DataSource("file:" + path)
}
