package guard

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/minio/highwayhash"
	"github.com/sirupsen/logrus"
)

// The fault: a file of JetStream's folder that a crash or a full disk has cut off. A torn o.dat, a consumer's position,
// ends nats-server 2.11 at each start with a nil pointer. With a torn meta file JetStream leaves out the consumer, and
// drops at once what only that one had not read. How it was reproduced: TestTornFolder. It can go when nats-server
// starts whatever its files are, and drops nothing.

// MendFolder repairs JetStream's folder below dir, before JetStream is started. What cannot be read is removed:
//
//   - o.dat: the consumer reads all messages again that JetStream still has.
//   - a stream's meta files: Dendrite creates the stream again, from the messages that are there.
//   - a consumer with its position, and its stream's meta files, so that JetStream drops nothing of that stream before
//     all of its consumers are there again. Dendrite creates them; the others find their positions.
func MendFolder(dir string) error {
	streams, err := filepath.Glob(filepath.Join(dir, "jetstream", "*", "streams", "*"))
	if err != nil {
		return err
	}
	for _, stream := range streams {
		if err := mendStream(stream); err != nil {
			return fmt.Errorf("JetStream's folder %s cannot be repaired: %w. If it cannot be made readable, move it away: "+
				"events that clients have not seen yet will be missing in /sync", stream, err)
		}
	}
	return nil
}

func mendStream(stream string) error {
	whole, err := hasMeta(stream)
	if err != nil {
		return err
	}
	consumers, err := os.ReadDir(filepath.Join(stream, "obs"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, entry := range consumers {
		consumer := filepath.Join(stream, "obs", entry.Name())
		if err := mendPosition(filepath.Join(consumer, "o.dat")); err != nil {
			return err
		}
		ok, err := hasMeta(consumer)
		if err == nil && !ok {
			logrus.Warnf("JetStream's folder %s cannot be read: its consumer reads again what there still is", consumer)
			err = os.RemoveAll(consumer)
		}
		if err != nil {
			return err
		}
		whole = whole && ok
	}
	if whole {
		return nil
	}
	logrus.Warnf("JetStream's folder %s cannot be read as it is: the stream is created again, with its messages", stream)
	return removeMeta(stream)
}

const metaFile, sumFile = "meta.inf", "meta.sum"

// hasMeta reports whether JetStream can read what it knows of a stream or a consumer.
func hasMeta(dir string) (bool, error) {
	meta, err := readIfThere(filepath.Join(dir, metaFile))
	if err != nil {
		return false, err
	}
	sum, err := readIfThere(filepath.Join(dir, sumFile))
	if err != nil {
		return false, err
	}
	if _, err := os.Stat(filepath.Join(dir, "meta.key")); err == nil {
		return true, nil // encrypted; Dendrite never asks for that
	}
	name := filepath.Base(dir)
	if parent := filepath.Dir(dir); filepath.Base(parent) == "obs" {
		name = filepath.Base(filepath.Dir(parent)) + "/" + name
	}
	key := sha256.Sum256([]byte(name))
	hash, err := highwayhash.New64(key[:])
	if err != nil {
		return false, err
	}
	hash.Write(meta)
	return json.Valid(meta) && hex.EncodeToString(hash.Sum(nil)) == string(sum), nil
}

func removeMeta(dir string) error {
	for _, name := range []string{metaFile, sumFile} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// readIfThere returns nothing if the file is not there.
func readIfThere(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

// mendPosition removes a consumer's o.dat if JetStream could not read it.
func mendPosition(path string) error {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && isPosition(data) {
		return nil
	}
	if err != nil {
		return err
	}
	logrus.Warnf("JetStream's file %s cannot be read: its consumer reads again what there still is", path)
	return os.Remove(path)
}

// isPosition reports whether data is a whole o.dat: two bytes that say so, then numbers of variable length: four of the
// position; how many messages are in hand, the time, and three of each; how many were delivered more than once, and two of
// each.
func isPosition(data []byte) bool {
	const mark = 22
	if len(data) < 2 || data[0] != mark {
		return false
	}
	perMessage := map[byte]uint64{1: 2, 2: 3}[data[1]]
	rest := numbers(data[2:])
	for range 4 {
		if rest.next()>>63 != 0 {
			return false
		}
	}
	if inHand := rest.next(); inHand > 0 {
		rest.skip(1)
		rest.skip(perMessage * min(inHand, uint64(len(data))))
	}
	rest.skip(2 * min(rest.next(), uint64(len(data))))
	return perMessage > 0 && rest != nil
}

// numbers are what is left of a file; nil if it was too short. The last number may end the file.
type numbers []byte

func (n *numbers) next() uint64 {
	v, size := binary.Uvarint(*n)
	if size <= 0 {
		*n = nil
		return 0
	}
	*n = (*n)[size:]
	return v
}

func (n *numbers) skip(count uint64) {
	for ; count > 0 && *n != nil; count-- {
		n.next()
	}
}
