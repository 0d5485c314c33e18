package routing

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/matrix-org/dendrite/userapi/api"
)

// checkDeviceKeys reports what is wrong with the shape of a device's keys. Other clients and servers get them as they
// are, and some of those cannot cope with what the specification does not allow.
func checkDeviceKeys(keys json.RawMessage, device *api.Device) error {
	var k struct {
		UserID     *string                       `json:"user_id"`
		DeviceID   *string                       `json:"device_id"`
		Algorithms []*string                     `json:"algorithms"`
		Keys       map[string]*string            `json:"keys"`
		Signatures map[string]map[string]*string `json:"signatures"`
	}
	if err := json.Unmarshal(keys, &k); err != nil {
		return fmt.Errorf("device_keys is not as it should be: %w", err)
	}
	switch {
	case k.UserID == nil || *k.UserID != device.UserID:
		return errors.New("device_keys.user_id is not the user")
	case k.DeviceID == nil || *k.DeviceID != device.ID:
		return errors.New("device_keys.device_id is not the device")
	case k.Algorithms == nil, k.Keys == nil, k.Signatures == nil:
		return errors.New("device_keys needs algorithms, keys and signatures")
	}
	for _, algorithm := range k.Algorithms {
		if algorithm == nil {
			return errors.New("device_keys.algorithms should be strings")
		}
	}
	for name, key := range k.Keys {
		if key == nil {
			return fmt.Errorf("device_keys.keys: %q should be a string", name)
		}
	}
	for user, signatures := range k.Signatures {
		if signatures == nil {
			return fmt.Errorf("device_keys.signatures: %q should be an object", user)
		}
		for name, signature := range signatures {
			if signature == nil {
				return fmt.Errorf("device_keys.signatures: %q should be a string", name)
			}
		}
	}
	return nil
}
