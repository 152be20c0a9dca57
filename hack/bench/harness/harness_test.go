package harness

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
)

func TestSelect(t *testing.T) {
	all := []Scenario{{Name: "a"}, {Name: "b"}, {Name: "c"}}
	for _, tt := range []struct{ names, want, err string }{
		{"", "a b c", ""},
		{"c,a", "c a", ""},
		{"b", "b", ""},
		{"b,x", "", `there is no "x"; there are a, b, c`},
	} {
		chosen, err := Select(all, tt.names)
		var got []string
		for _, s := range chosen {
			got = append(got, s.Name)
		}
		if strings.Join(got, " ") != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("Select(%q) = %v, %v", tt.names, got, err)
		}
	}
}

func TestParams(t *testing.T) {
	valid := Params{Link: "grpc", ControllerManager: ControllerManagerStock}
	if err := valid.validate(); err != nil {
		t.Error(err)
	}
	for want, p := range map[string]Params{
		"N=-1":      {N: -1, Link: "grpc", ControllerManager: ControllerManagerStock},
		"LINK=carp": {Link: "carp", ControllerManager: ControllerManagerStock},
		"CM=slow":   {Link: "grpc", ControllerManager: "slow"},
	} {
		if err := p.validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %s", p, err, want)
		}
	}
}

func TestParallel(t *testing.T) {
	var mu sync.Mutex
	seen := map[int]int{}
	if _, err := Parallel(t.Context(), 100, 7, func(_ context.Context, i int) error {
		mu.Lock()
		defer mu.Unlock()
		seen[i]++
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		if seen[i] != 1 {
			t.Errorf("%d was done %d times", i, seen[i])
		}
	}
	broken := errors.New("broken")
	if _, err := Parallel(t.Context(), 1000, 3, func(_ context.Context, i int) error {
		if i == 10 {
			return broken
		}
		return nil
	}); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
}
