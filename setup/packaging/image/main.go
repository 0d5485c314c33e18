// Command image packs the programs of a homeserver into container images, one for each architecture, without a container
// engine. The root file system has the programs, the certificates of public authorities, and the folders that
// matrixdotorg/dendrite-monolith has; there is no shell.
//
//	image -o FOLDER -tag NAME [-user UID] PROGRAMS...
//
// Each of PROGRAMS is a folder of static programs that is named after its architecture, as Go calls it. FOLDER becomes an
// OCI layout with all architectures; FOLDER/ARCH.tar is what "docker load" and "podman load" read. The same programs make
// the same images, byte for byte.
//
// It is a module of its own, so that the homeserver's go.mod does not name the library.
package main

import (
	"bytes"
	"flag"
	"io"
	"log"
	"os"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

var (
	out  = flag.String("o", "image", "The `folder` to write")
	tag  = flag.String("tag", "dendrite-futures:latest", "The image's `name`")
	user = flag.Int("user", 991, "The numeric `ID` of the user and group that the server runs as; 0 is root, as in Dendrite's own image")
)

func main() {
	log.SetFlags(0)
	flag.Parse()
	if flag.NArg() == 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(flag.Args()); err != nil {
		log.Fatal("image: ", err)
	}
}

func run(folders []string) error {
	reference, err := name.NewTag(*tag)
	if err != nil {
		return err
	}
	if err := os.RemoveAll(*out); err != nil {
		return err
	}
	if err := os.MkdirAll(*out, 0o755); err != nil {
		return err
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, folder := range folders {
		arch := filepath.Base(folder)
		image, err := build(folder, arch)
		if err != nil {
			return err
		}
		if err := tarball.WriteToFile(filepath.Join(*out, arch+".tar"), reference, image); err != nil {
			return err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{
			Platform:    &v1.Platform{OS: "linux", Architecture: arch},
			Annotations: map[string]string{"org.opencontainers.image.ref.name": reference.TagStr() + "-" + arch},
		}})
	}
	_, err = layout.Write(*out, index)
	return err
}

func build(folder, arch string) (v1.Image, error) {
	var root bytes.Buffer
	if err := writeRoot(&root, folder, *user); err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(root.Bytes())), nil
	}, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	if image, err = mutate.AppendLayers(image, layer); err != nil {
		return nil, err
	}
	file, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.Architecture, file.OS, file.Config = arch, "linux", config()
	return mutate.ConfigFile(image, file)
}

// config is what Dendrite's own image has, so that whatever runs that image can run this one. A test compares it with
// the Dockerfile.
func config() v1.Config {
	return v1.Config{
		User:         owner(*user),
		ExposedPorts: map[string]struct{}{"8008/tcp": {}, "8448/tcp": {}},
		Env:          []string{"PATH=/usr/bin"},
		Entrypoint:   []string{"/usr/bin/dendrite"},
		Volumes:      map[string]struct{}{"/etc/dendrite": {}},
		WorkingDir:   "/etc/dendrite",
		Labels: map[string]string{
			"org.opencontainers.image.title":       "Dendrite with native futures",
			"org.opencontainers.image.description": "A Matrix homeserver with delayed events and MatrixRTC",
			"org.opencontainers.image.licenses":    "Apache-2.0",
		},
		Healthcheck: &v1.HealthConfig{
			Test:     []string{"CMD", "/usr/bin/dendrite", "-healthcheck"},
			Interval: 30 * time.Second, Timeout: 15 * time.Second, StartPeriod: time.Minute, Retries: 3,
		},
	}
}
