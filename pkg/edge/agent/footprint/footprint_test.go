package footprint

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// touched is in the executable's data, and must be what it was.
var touched = "before"

func TestTrim(t *testing.T) {
	touched = "after"
	for range 3 {
		if err := Trim(); err != nil {
			t.Fatal(err)
		}
	}
	if touched != "after" {
		t.Errorf("a variable is %q", touched)
	}
}

func TestReadOnly(t *testing.T) {
	const file = "/usr/bin/a b"
	for line, want := range map[string]bool{
		"00400000-00401000 r-xp 00000000 fe:00 1 /usr/bin/a b":            true,
		"00401000-00402000 r--p 00000000 fe:00 1    /usr/bin/a b":         true,
		"00402000-00403000 rw-p 00000000 fe:00 1 /usr/bin/a b":            false,
		"00403000-00404000 ---p 00000000 fe:00 1 /usr/bin/a b":            false,
		"00403000-00404000 r--p 00000000 fe:00 1 /usr/bin/c":              false,
		"00403000-00404000 r--p 00000000 00:00 0":                         false,
		"00404000-00404000 r--p 00000000 fe:00 1 /usr/bin/a b":            false,
		"x-y r--p 00000000 fe:00 1 /usr/bin/a b":                          false,
		"7ffc0000-7ffc1000 r--p 00000000 00:00 0                  [vvar]": false,
	} {
		start, end, ok := readOnly(line, file)
		if ok != want || ok && end-start != 0x1000 {
			t.Errorf("%s gave %x, %x, %t", line, start, end, ok)
		}
	}
}

func TestRunEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		Run(ctx, time.Second, 7*time.Minute)
	})
}
