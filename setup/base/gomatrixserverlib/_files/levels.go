package gomatrixserverlib

// PowerLevelsOf returns the power levels of a room whose create event and power levels event these are, to look up
// levels with: see WithCreators. A room without power levels (nil) has the defaults.
func PowerLevelsOf(create, levels PDU) (PowerLevelContent, error) {
	provider, creator := NewAuthEvents(nil), ""
	if levels != nil {
		if err := provider.AddEvent(levels); err != nil {
			return PowerLevelContent{}, err
		}
	}
	if create != nil {
		creator = string(create.SenderID())
	}
	c, err := NewPowerLevelContentFromAuthEvents(&provider, creator)
	if err != nil {
		return PowerLevelContent{}, err
	}
	return c.WithCreators(create), nil
}
