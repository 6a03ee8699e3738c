package config

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// window decodes one that is written as in a document.
func window(t *testing.T, text string) *Window {
	t.Helper()
	cfg, err := Decode("f", document("restart: {window: {"+text+"}}"))
	if err != nil {
		t.Fatal(err)
	}
	return cfg.Restart.Window
}

func at(t *testing.T, text string) time.Time {
	t.Helper()
	when, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return when
}

// The times between which a window is open are those of the clock on the wall, here in UTC.
func TestAWindowIsOpenByTheClockOnTheWall(t *testing.T) {
	for name, c := range map[string]struct {
		window, from, to string
		want             []string
	}{
		"every night, across midnight": {"start: 22:00, end: 04:00", "2026-11-23T00:00:00Z", "2026-11-25T00:00:00Z",
			[]string{"Mon 00:00 Mon 04:00", "Mon 22:00 Tue 04:00", "Tue 22:00 Wed 00:00"}},
		"a night that begins on a day of the list": {"start: 22:00, end: 04:00, days: [Sat]", "2026-11-27T00:00:00Z",
			"2026-12-01T00:00:00Z", []string{"Sat 22:00 Sun 04:00"}},
		"by day": {"start: 09:00, end: 17:30, days: [Tue, Thu]", "2026-11-23T00:00:00Z", "2026-11-28T00:00:00Z",
			[]string{"Tue 09:00 Tue 17:30", "Thu 09:00 Thu 17:30"}},
		"up to midnight, written both ways": {"start: 23:00, end: 00:00", "2026-11-23T00:00:00Z", "2026-11-24T12:00:00Z",
			[]string{"Mon 23:00 Tue 00:00"}},
		"whole days": {"days: [Sat, Sun], timeZone: Asia/Tokyo", "2026-11-27T00:00:00Z", "2026-12-01T00:00:00Z",
			[]string{"Fri 15:00 Sun 15:00"}},
		"winter and summer": {"start: 01:00, end: 01:30, timeZone: America/New_York, days: [Fri]", "2026-10-26T00:00:00Z",
			"2026-11-08T00:00:00Z", []string{"Fri 05:00 Fri 05:30", "Fri 06:00 Fri 06:30"}},
		"clocks go forward from 02:00 to 03:00 within it": {"start: 01:30, end: 04:00, timeZone: Europe/Berlin",
			"2027-03-28T00:00:00Z", "2027-03-29T00:00:00Z", []string{"Sun 00:30 Sun 02:00", "Sun 23:30 Mon 00:00"}},
		"its start is skipped": {"start: 02:30, end: 03:30, timeZone: Europe/Berlin", "2027-03-28T00:00:00Z",
			"2027-03-28T12:00:00Z", []string{"Sun 01:00 Sun 01:30"}},
		"all of it is skipped": {"start: 02:00, end: 03:00, timeZone: Europe/Berlin", "2027-03-27T12:00:00Z",
			"2027-03-29T12:00:00Z", []string{"Mon 00:00 Mon 01:00"}},
		"clocks go back from 03:00 to 02:00 within it": {"start: 01:00, end: 04:00, timeZone: Europe/Berlin",
			"2027-10-31T00:00:00Z", "2027-10-31T12:00:00Z", []string{"Sun 00:00 Sun 03:00"}},
		"all of it comes twice": {"start: 02:00, end: 02:30, timeZone: Europe/Berlin", "2027-10-31T00:00:00Z",
			"2027-10-31T12:00:00Z", []string{"Sun 00:00 Sun 00:30", "Sun 01:00 Sun 01:30"}},
		"clocks that change by half an hour": {"start: 01:00, end: 02:30, timeZone: Australia/Lord_Howe",
			"2027-04-03T12:00:00Z", "2027-04-04T00:00:00Z", []string{"Sat 14:00 Sat 16:00"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := window(t, c.window)
			if diff := cmp.Diff(c.want, spans(w, at(t, c.from), at(t, c.to))); diff != "" {
				t.Errorf("open (-want +got):\n%s", diff)
			}
		})
	}
}

// spans are the times in UTC between which w is open, minute by minute.
func spans(w *Window, from, to time.Time) []string {
	const format = "Mon 15:04"
	var all []string
	var since time.Time
	for now := from; !now.After(to); now = now.Add(time.Minute) {
		switch open := w.Contains(now) && now.Before(to); {
		case open && since.IsZero():
			since = now
		case !open && !since.IsZero():
			all = append(all, since.Format(format)+" "+now.Format(format))
			since = time.Time{}
		}
	}
	return all
}

func TestWhenAWindowOpens(t *testing.T) {
	for name, c := range map[string]struct{ window, from, want string }{
		"it is open":               {"start: 22:00, end: 04:00", "2026-11-23T22:00:30Z", "2026-11-23T22:00:30Z"},
		"in the evening":           {"start: 22:00, end: 04:00", "2026-11-23T04:00:00Z", "2026-11-23T22:00:00Z"},
		"in its time zone":         {"start: 22:00, end: 04:00, timeZone: Europe/Berlin", "2026-11-23T12:00:07Z", "2026-11-23T22:00:00+01:00"},
		"on the next of its days":  {"days: [Sun]", "2026-11-23T12:00:00Z", "2026-11-29T00:00:00Z"},
		"after the clocks changed": {"start: 02:30, end: 03:30, timeZone: Europe/Berlin", "2027-03-28T00:30:00Z", "2027-03-28T03:00:00+02:00"},
		"a week later, where all of it is skipped": {"days: [Sun], start: 02:00, end: 03:00, timeZone: Europe/Berlin",
			"2027-03-21T03:00:00Z", "2027-04-04T02:00:00+02:00"},
	} {
		t.Run(name, func(t *testing.T) {
			got := window(t, c.window).Opens(at(t, c.from)).Format(time.RFC3339)
			if got != c.want {
				t.Errorf("it opens at %s, want %s", got, c.want)
			}
		})
	}
}

func TestWithoutAWindowItIsAlwaysOpen(t *testing.T) {
	now := at(t, "2026-11-23T12:00:00Z")
	if w := (*Window)(nil); !w.Contains(now) || !w.Opens(now).Equal(now) {
		t.Error("no window is closed")
	}
}

func TestTimeOfDay(t *testing.T) {
	for text, want := range map[string]TimeOfDay{"00:00": 0, "09:05": 545, "23:59": 1439, "24:00": EndOfDay} {
		var got TimeOfDay
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want || got.String() != text {
			t.Errorf("%q is read as %d and written %s, %v; want %d", text, int(got), got, err, int(want))
		}
	}
	for _, text := range []string{"", "9:05", "10pm", "24:01", "25:00", "23:60", "22:00:00", " 22:00", "-1:00", "１２:00"} {
		var got TimeOfDay
		if err := got.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is read as %s; want an error", text, got)
		}
	}
}

func TestWindowsThatCannotBeMeant(t *testing.T) {
	for text, want := range map[string]string{
		"":                                    "restart.window: says nothing",
		"timeZone: Europe/Berlin":             "restart.window: says nothing",
		"start: 04:00, end: 04:00":            "restart.window.end: is 04:00, as start is",
		"start: 24:00, end: 04:00":            "restart.window.start: is 24:00; write 00:00",
		"start: 23:50, end: 00:10":            "restart.window.end: leaves 20 minutes; write a window of at least 30",
		"days: [Mon], timeZone: CET+1":        `restart.window.timeZone: is "CET+1", not a time zone`,
		"days: [Mon], timeZone: ../../passwd": `restart.window.timeZone: is "../../passwd", not a time zone`,
		"days: [Mon], timeZone: Local":        "restart.window.timeZone: is Local",
	} {
		_, err := Decode("f", document("restart: {window: {"+text+"}}"))
		if faults, _ := errors.AsType[Faults](err); len(faults) != 1 || !strings.HasPrefix(faults[0].String(), "f:2: "+want) {
			t.Errorf("%q: %v\nwant %s", text, err, want)
		}
	}
}
