package hostconfig

import (
	"cmp"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Version is a containerd version. The zero Version means unknown: what is rendered then suits every version.
type Version struct {
	Major, Minor, Patch int
}

// LatestPatch is the patch number of a version that names only its line, such as 2.4.
const LatestPatch = math.MaxInt32

// ParseVersion reads a version as containerd, its packages and people write it: v2.4.2, 2.4.2+unknown, 1.6.20~ds1,
// 2.4.0-rc.1, and 2.4 for the latest of that line. A pre-release counts as its release. The empty string is unknown.
func ParseVersion(s string) (Version, error) {
	if s == "" {
		return Version{}, nil
	}
	core := strings.TrimPrefix(s, "v")
	if i := strings.IndexAny(core, "-+~ "); i >= 0 {
		core = core[:i]
	}
	parts := strings.Split(core, ".")
	if len(parts) != 2 && len(parts) != 3 {
		return Version{}, fmt.Errorf("parse containerd version %q: write it as 2.4.2 or 2.4", s)
	}
	v := Version{Patch: LatestPatch}
	for i, field := range []*int{&v.Major, &v.Minor, &v.Patch}[:len(parts)] {
		n, err := strconv.ParseUint(parts[i], 10, 16)
		if err != nil {
			return Version{}, fmt.Errorf("parse containerd version %q: %q is not a number", s, parts[i])
		}
		*field = int(n)
	}
	if v.Major == 0 {
		return Version{}, fmt.Errorf("parse containerd version %q: there is no containerd 0", s)
	}
	return v, nil
}

// IsZero reports whether the version is unknown.
func (v Version) IsZero() bool { return v == Version{} }

// Compare returns -1, 0 or 1 as v is older than, equal to or newer than o. An unknown version is older than all.
func (v Version) Compare(o Version) int {
	return cmp.Or(cmp.Compare(v.Major, o.Major), cmp.Compare(v.Minor, o.Minor), cmp.Compare(v.Patch, o.Patch))
}

// String writes the version as 2.4.2, 2.4 or unknown.
func (v Version) String() string {
	switch {
	case v.IsZero():
		return "unknown"
	case v.Patch == LatestPatch:
		return fmt.Sprintf("%d.%d", v.Major, v.Minor)
	default:
		return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Patch)
	}
}
