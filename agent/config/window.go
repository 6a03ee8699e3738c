package config

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"time"
	_ "time/tzdata" // where the node, or the agent's image, has no time zones
)

// TimeOfDay is a time of the day in minutes, 0 to 24 hours; written as HH:MM.
type TimeOfDay int

// EndOfDay is 24:00.
const EndOfDay TimeOfDay = 24 * 60

var clock = regexp.MustCompile(`^([0-9]{2}):([0-5][0-9])$`)

// UnmarshalText reads HH:MM. The error is a fault's message.
func (t *TimeOfDay) UnmarshalText(text []byte) error {
	m := clock.FindSubmatch(text)
	if m == nil {
		return fmt.Errorf("%s is not a time of the day; write hours and minutes of 24 hours, such as 22:00", quote(string(text)))
	}
	hours, _ := strconv.Atoi(string(m[1])) // two digits
	minutes, _ := strconv.Atoi(string(m[2]))
	if hours*60+minutes > int(EndOfDay) {
		return fmt.Errorf("%s is after 24:00; write hours and minutes of 24 hours, such as 22:00", quote(string(text)))
	}
	*t = TimeOfDay(hours*60 + minutes)
	return nil
}

// MarshalText writes what UnmarshalText reads.
func (t TimeOfDay) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// String is HH:MM.
func (t TimeOfDay) String() string { return fmt.Sprintf("%02d:%02d", int(t)/60, int(t)%60) }

// length is how long the window is open where no clock is changed.
func (w *Window) length() time.Duration {
	minutes := w.End - w.Start
	if minutes <= 0 {
		minutes += EndOfDay
	}
	return time.Duration(minutes) * time.Minute
}

// Contains reports whether the window is open at t. What counts is the clock on the wall: an hour that is skipped in spring is
// not there to be open in, and one that comes twice in autumn counts twice. A nil Window is always open.
func (w *Window) Contains(t time.Time) bool { return w == nil || w.contains(t.In(w.location())) }

// contains is Contains for a time in the window's time zone.
func (w *Window) contains(t time.Time) bool {
	now, today := TimeOfDay(t.Hour()*60+t.Minute()), t.Weekday()
	if w.Start < w.End {
		return w.Start <= now && now < w.End && w.opensOn(today)
	}
	yesterday := (today + 6) % 7
	return now >= w.Start && w.opensOn(today) || now < w.End && w.opensOn(yesterday)
}

func (w *Window) opensOn(d time.Weekday) bool {
	return len(w.Days) == 0 || slices.Contains(w.Days, Days()[d])
}

// location is the time zone, which validation has found.
func (w *Window) location() *time.Location {
	l, err := time.LoadLocation(w.TimeZone)
	if err != nil {
		return time.UTC
	}
	return l
}

// Opens is the first time from t on at which the window is open, in its time zone; t itself where it is open then.
func (w *Window) Opens(t time.Time) time.Time {
	if w.Contains(t) {
		return t
	}
	// Minute by minute, which takes a few ms at worst: so it says nothing else than Contains, whatever clocks do. Two weeks,
	// because the only time of a week may be one that is skipped in spring.
	next := t.In(w.location()).Truncate(time.Minute)
	for range 15 * int(EndOfDay) {
		next = next.Add(time.Minute)
		if w.contains(next) {
			break
		}
	}
	return next
}
