package decide

import seinev1 "github.com/seinemesh/seine/api/seine/v1"

// Mirror is a destination that gets copies of a share of a rule's requests.
type Mirror struct {
	Destination Destination
	PerMillion  uint32
}

// maxMirrors bounds what one request may become.
const maxMirrors = 8

func compileMirrors(list []*seinev1.Mirror) ([]Mirror, error) {
	if len(list) > maxMirrors {
		return nil, invalid("%d mirrors are more than %d", len(list), maxMirrors)
	}
	var out []Mirror
	for _, m := range list {
		if m.Destination == nil || m.PerMillion > million {
			return nil, invalid("mirror to nowhere or of %d millionths", m.PerMillion)
		}
		if m.PerMillion == 0 {
			continue
		}
		d, _, err := compileDestinations([]*seinev1.Destination{m.Destination})
		if err != nil {
			return nil, err
		}
		out = append(out, Mirror{d[0], m.PerMillion})
	}
	return out, nil
}
