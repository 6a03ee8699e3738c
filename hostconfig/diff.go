package hostconfig

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Diff returns what has to be done so that a hosts directory that holds observed comes to hold desired. owned is what
// hotplate wrote there before; everything else is somebody else's and is touched only for hosts in adopt (by their
// registry host). A conflict on one host does not stop the others. Diff is pure.
//
// What is ours and differs from the manifest is drift: it is reported and repaired. A host directory that is exactly
// what is desired is claimed without adopt: that is what a lost state directory leaves.
func Diff(observed Observed, owned Owned, desired Tree, adopt map[string]bool) Plan {
	d := differ{observed: observed, owned: owned, desired: desired, adopt: adopt}
	d.blocked, d.taken = map[string]bool{}, map[string]bool{}
	d.shared()
	for _, dir := range desired.HostDirs() {
		d.hostDir(dir)
	}
	d.defaultShadows()
	d.sharedFiles()
	d.leftovers()
	return d.finish()
}

type differ struct {
	observed Observed
	owned    Owned
	desired  Tree
	adopt    map[string]bool

	blocked    map[string]bool // host directories that get no change
	taken      map[string]bool // directories that are adopted or set aside, with all that is in them
	sharedGone bool            // SharedDir cannot be used
	plan       Plan
}

func (d *differ) change(c Change) { d.plan.Changes = append(d.plan.Changes, c) }

func (d *differ) conflict(dir string, c Conflict) {
	if d.blocked[dir] {
		return // one thing at a time
	}
	d.blocked[dir] = c.Blocking
	d.plan.Conflicts = append(d.plan.Conflicts, c)
}

// shared blocks the hosts that need what cannot be written to SharedDir.
func (d *differ) shared() {
	e, ok := d.observed.Entries[SharedDir]
	d.sharedGone = ok && (e.Kind != KindDir || e.Unreadable != "")
	for _, pem := range d.desired.Paths() {
		at, found := pem, d.observed.Entries[pem]
		if d.sharedGone {
			at, found = SharedDir, e
		}
		if !strings.HasPrefix(pem, SharedDir+"/") || !d.sharedGone && found.Kind != KindDir {
			continue
		}
		for _, dir := range d.usersOf(pem) {
			d.conflict(dir, Conflict{
				Host: HostOfDir(dir), Path: at, Blocking: true,
				Reason: fmt.Sprintf("%s is %s; hotplate keeps certificates under that name", at, what(found)),
				Action: "remove " + at,
			})
		}
	}
}

// usersOf returns the host directories whose desired hosts.toml names the PEM file.
func (d *differ) usersOf(pem string) []string {
	var dirs []string
	for _, dir := range d.desired.HostDirs() {
		if strings.Contains(string(d.desired[dir+"/"+HostsTOML].Data), "../"+pem) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// defaultShadows names the foreign host directories beside a _default of ours. containerd looks there and not at _default
// (hostPaths of core/remotes/docker/config/config_unix.go), whatever is in them, so that _default is no wall for them.
func (d *differ) defaultShadows() {
	if _, ok := d.desired[DefaultHost+"/"+HostsTOML]; !ok {
		return
	}
	ours := map[string]bool{SharedDir: true}
	for _, dir := range d.desired.HostDirs() {
		for _, spelling := range ownDirs(HostOfDir(dir)) {
			ours[spelling] = true // a foreign one has its own conflict
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(d.observed.Entries)) {
		e := d.observed.Entries[dir]
		if strings.Contains(dir, "/") || ours[dir] || e.Kind != KindDir && e.Kind != KindSymlink || d.ownsAll(dir) ||
			ValidHost(HostOfDir(dir)) != nil {
			continue
		}
		d.plan.Conflicts = append(d.plan.Conflicts, Conflict{
			Host: DefaultHost, Path: dir,
			Reason: fmt.Sprintf("containerd looks for %s in %s, which hotplate did not write, and not at _default",
				HostOfDir(dir), dir),
			Action: fmt.Sprintf("remove %s, or name %s under registries with adopt: true", dir, HostOfDir(dir)),
		})
	}
}

// hostDir plans one host directory.
func (d *differ) hostDir(dir string) {
	if d.blocked[dir] {
		return
	}
	host := HostOfDir(dir)
	files := d.filesOf(dir)
	entry, there := d.observed.Entries[dir]
	below := d.observed.below(dir)
	_, mine := d.owned[dir+"/"+HostsTOML]
	mine = mine || d.ownsAll(dir)
	foreign := ""
	switch {
	case !there:
	case entry.Kind != KindDir || entry.Unreadable != "":
		foreign = what(entry)
	case !mine && !d.isExactly(files, below):
		foreign = d.describeForeign(dir, below)
	case d.observed.Entries[dir+"/"+HostsTOML].Kind == KindDir:
		foreign = "a directory whose " + HostsTOML + " is a directory"
	}
	if foreign != "" && !d.adopt[host] {
		d.conflict(dir, Conflict{
			Host: host, Path: dir, Blocking: true,
			Reason: fmt.Sprintf("%s is %s that hotplate did not write", dir, foreign),
			Action: "set adopt: true for this registry, or remove " + dir,
		})
		return
	}
	if !d.shadows(dir, host, mine && there && foreign == "") {
		return
	}
	switch {
	case foreign != "":
		d.taken[dir] = true
		d.change(Change{
			Op: AdoptDir, Host: host, Path: dir, Mode: DirMode, Files: files, Old: entry.Fingerprint(),
			OldFiles: d.fingerprints(dir),
		})
	case !there:
		for _, p := range files.Paths() {
			d.missing(host, p)
		}
		d.change(Change{Op: PublishDir, Host: host, Path: dir, Mode: DirMode, Files: files})
	default:
		d.replaceFiles(host, files)
		d.strays(host, below)
	}
}

// shadows deals with a foreign directory in the other spelling of the host's name. It reports whether the host's own
// directory may be worked on.
func (d *differ) shadows(dir, host string, inPlace bool) bool {
	for _, other := range ownDirs(host) {
		e, there := d.observed.Entries[other]
		if other == dir || !there || d.ownsAll(other) {
			continue
		}
		if d.adopt[host] {
			d.taken[other] = true
			d.change(Change{
				Op: SetAside, Host: host, Path: other, Old: e.Fingerprint(), OldFiles: d.fingerprints(other),
			})
			continue
		}
		d.conflict(dir, Conflict{
			Host: host, Path: other, Blocking: !inPlace,
			Reason: fmt.Sprintf("%s is %s for the same registry that hotplate did not write; beside %s, "+
				"containerd uses %s", other, what(e), dir, ownDirs(host)[0]),
			Action: "set adopt: true for this registry, or remove " + other,
		})
		if !inPlace {
			return false
		}
	}
	return true
}

// ownsAll reports whether dir is a directory of ours in which there is nothing foreign.
func (d *differ) ownsAll(dir string) bool {
	ours := false
	for p := range d.owned {
		ours = ours || strings.HasPrefix(p, dir+"/")
	}
	e := d.observed.Entries[dir]
	return ours && e.Kind == KindDir && e.Unreadable == "" &&
		!slices.ContainsFunc(d.observed.below(dir), func(p string) bool { return !d.owns(p) })
}

func (d *differ) owns(p string) bool {
	_, ok := d.owned[p]
	return ok && d.observed.Entries[p].Kind != KindDir
}

func (d *differ) filesOf(dir string) Tree {
	files := Tree{}
	for p, f := range d.desired {
		if strings.HasPrefix(p, dir+"/") {
			files[p] = f
		}
	}
	return files
}

// isExactly reports whether the paths below a directory are files, all of them and with the same bytes.
func (d *differ) isExactly(files Tree, below []string) bool {
	if len(below) != len(files) {
		return false
	}
	for _, p := range below {
		f, ok := files[p]
		if e := d.observed.Entries[p]; !ok || e.Kind != KindFile || e.SHA256 != f.SHA256() {
			return false
		}
	}
	return true
}

func (d *differ) describeForeign(dir string, below []string) string {
	e, ok := d.observed.Entries[dir+"/"+HostsTOML]
	switch {
	case len(below) == 0:
		return "an empty directory (it keeps containerd from using " + DefaultHost + ")"
	case ok && IsManaged(e.Data):
		return "a directory with hotplate's header that is not in this state directory's manifest, and so one"
	case ok && firstComment(e.Data) != "":
		return fmt.Sprintf("a directory (its %s begins with %q)", HostsTOML, firstComment(e.Data))
	default:
		return "a directory"
	}
}

func what(e Entry) string {
	switch {
	case e.Unreadable != "":
		return "an unreadable " + string(e.Kind) + " (" + e.Unreadable + ")"
	case e.Kind == KindSymlink:
		return "a symlink to " + fmt.Sprintf("%q", e.Target)
	default:
		return "a " + string(e.Kind)
	}
}

// fingerprints returns those of everything below dir, or of dir itself when it is no directory.
func (d *differ) fingerprints(dir string) map[string]string {
	if e := d.observed.Entries[dir]; e.Kind != KindDir {
		return map[string]string{dir: e.Fingerprint()}
	}
	out := map[string]string{}
	for _, p := range d.observed.below(dir) {
		out[p] = d.observed.Entries[p].Fingerprint()
	}
	return out
}

func (d *differ) missing(host, p string) {
	if _, ok := d.owned[p]; ok {
		d.plan.Drift = append(d.plan.Drift, Drift{Kind: Missing, Host: host, Path: p})
	}
}

// replaceFiles plans the files of a host directory that is ours.
func (d *differ) replaceFiles(host string, files Tree) {
	for _, p := range files.Paths() {
		if c, needed := d.write(ReplaceFile, host, p, files[p]); needed {
			d.change(c)
		}
	}
}

// write returns the change that makes path p hold f, and whether one is needed. It reports drift.
func (d *differ) write(op Op, host, p string, f File) (Change, bool) {
	e, there := d.observed.Entries[p]
	o, mine := d.owned[p]
	same := there && e.Kind == KindFile && e.SHA256 == f.SHA256()
	accepted := mine && there && e.Kind == KindFile && slices.Contains(o.SHA256, e.SHA256)
	drift := Drift{Host: host, Path: p, Mode: e.Mode, Comment: firstComment(e.Data)}
	switch {
	case !there:
		d.missing(host, p)
	case !accepted && !same:
		drift.Kind, drift.Fingerprint = Changed, e.Fingerprint()
		d.plan.Drift = append(d.plan.Drift, drift)
	case mine && e.Mode != o.Mode && e.Mode != f.Mode:
		drift.Kind, drift.Fingerprint = WrongMode, e.Fingerprint()
		d.plan.Drift = append(d.plan.Drift, drift)
	}
	c := Change{Op: op, Host: host, Path: p, Mode: f.Mode, Data: f.Data}
	if there {
		c.Old = e.Fingerprint()
	}
	return c, !same || !accepted || e.Mode != f.Mode
}

// strays reports foreign files in a directory of ours.
func (d *differ) strays(host string, below []string) {
	for _, p := range below {
		if _, wanted := d.desired[p]; wanted || d.owns(p) {
			continue
		}
		e := d.observed.Entries[p]
		d.plan.Drift = append(d.plan.Drift, Drift{
			Kind: Stray, Host: host, Path: p, Mode: e.Mode, Fingerprint: e.Fingerprint(), Comment: firstComment(e.Data),
		})
	}
}

// sharedFiles plans the PEM files that a host needs which is not blocked.
func (d *differ) sharedFiles() {
	for _, p := range d.desired.Paths() {
		if !strings.HasPrefix(p, SharedDir+"/") || d.sharedGone {
			continue
		}
		users := d.usersOf(p)
		if len(users) > 0 && !slices.ContainsFunc(users, func(dir string) bool { return !d.blocked[dir] }) {
			continue
		}
		if c, needed := d.write(PublishFile, "", p, d.desired[p]); needed {
			d.change(c)
		}
	}
}

// leftovers plans the removal of what is ours and not desired.
func (d *differ) leftovers() {
	byDir := map[string][]string{}
	for _, p := range slices.Sorted(maps.Keys(d.owned)) {
		if _, wanted := d.desired[p]; wanted {
			continue
		}
		dir, _, _ := strings.Cut(p, "/")
		byDir[dir] = append(byDir[dir], p)
	}
	for dir, paths := range byDir {
		switch {
		case dir == SharedDir:
			d.retire(paths)
		case len(d.filesOf(dir)) == 0 && (d.ownsAll(dir) || d.absent(dir)):
			d.change(Change{
				Op: RemoveDir, Host: HostOfDir(dir), Path: dir, Mode: DirMode, OldFiles: d.fingerprintsOf(paths),
			})
		default:
			d.removeFiles(dir, paths)
		}
	}
}

func (d *differ) absent(dir string) bool {
	_, there := d.observed.Entries[dir]
	return !there
}

func (d *differ) fingerprintsOf(paths []string) map[string]string {
	out := map[string]string{}
	for _, p := range paths {
		out[p] = d.oldOf(p)
	}
	return out
}

// oldOf returns the fingerprint that a removal finds at p, "" for nothing.
func (d *differ) oldOf(p string) string {
	if dir, _, _ := strings.Cut(p, "/"); d.taken[dir] {
		return ""
	}
	if e, there := d.observed.Entries[p]; there {
		return e.Fingerprint()
	}
	return ""
}

func (d *differ) retire(paths []string) {
	if d.sharedGone {
		return
	}
	for _, p := range paths {
		d.change(Change{Op: RetireFile, Path: p, Old: d.oldOf(p)})
	}
}

func (d *differ) removeFiles(dir string, paths []string) {
	host := HostOfDir(dir)
	for _, p := range paths {
		old := d.oldOf(p)
		if d.observed.Entries[p].Kind == KindDir {
			old = "" // somebody's directory under our file's name stays
		}
		d.change(Change{Op: RemoveFile, Host: host, Path: p, Old: old})
	}
	if len(d.filesOf(dir)) == 0 {
		d.strays(host, d.observed.below(dir))
	}
}

// finish puts everything into its order.
func (d *differ) finish() Plan {
	ops := []Op{PublishFile, PublishDir, ReplaceFile, AdoptDir, SetAside, RemoveDir, RemoveFile, RetireFile}
	slices.SortStableFunc(d.plan.Changes, func(a, b Change) int {
		return cmp.Or(cmp.Compare(slices.Index(ops, a.Op), slices.Index(ops, b.Op)), cmp.Compare(a.Path, b.Path))
	})
	slices.SortStableFunc(d.plan.Conflicts, func(a, b Conflict) int {
		return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.Path, b.Path))
	})
	slices.SortStableFunc(d.plan.Drift, func(a, b Drift) int { return cmp.Compare(a.Path, b.Path) })
	return d.plan
}

// firstComment returns the first comment line of a TOML file without its mark: the line that most often names the
// program that wrote it. Unprintable characters are left out.
func firstComment(data []byte) string {
	const head, limit = 4096, 120
	for line := range strings.Lines(string(data[:min(len(data), head)])) {
		text, ok := strings.CutPrefix(strings.TrimSpace(line), "#")
		if text = strings.TrimSpace(text); !ok || text == "" {
			continue
		}
		text = strings.Map(func(r rune) rune {
			if r < ' ' || r >= 0x7f {
				return -1
			}
			return r
		}, text)
		return text[:min(len(text), limit)]
	}
	return ""
}
