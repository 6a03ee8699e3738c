package store

import "time"

// SetIdle changes how long a large partial layer is taken for someone else's.
func (s *Store) SetIdle(d time.Duration) { s.idle = d }

// KnowsPins is knowsPins.
var KnowsPins = knowsPins
