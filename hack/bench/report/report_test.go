package report

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"k8s.io/utils/ptr"

	"arhat.dev/aranya/hack/bench/measure"
)

func TestTarget(t *testing.T) {
	for _, tt := range []struct {
		target *Target
		value  float64
		met    bool
		text   string
	}{
		{AtMost(50), 50, true, "≤ 50.0"},
		{AtMost(50), 50.1, false, "≤ 50.0"},
		{AtLeast(100), 100, true, "≥ 100"},
		{AtLeast(100), 99, false, "≥ 100"},
		{AtMost(0), 0, true, "≤ 0"},
	} {
		if met := tt.target.Met(tt.value); met != tt.met {
			t.Errorf("%v: %v met: %v", tt.target, tt.value, met)
		}
		if text := tt.target.String(); text != tt.text {
			t.Errorf("%q, want %q", text, tt.text)
		}
	}
}

func sample() *Report {
	return &Report{Machine: "m", Version: "v", Results: []Result{{
		Scenario: "s", Doc: "<doc>", Command: "make bench",
		Figures: []Figure{
			{Name: "fast", Value: 120, Unit: "1/s", Target: AtLeast(100), Ceiling: ptr.To(160.0)},
			{Name: "large", Value: 70, Unit: "KiB", Target: AtMost(64)},
			{Name: "plain", Value: 0.123456, Unit: "s", Note: "a note"},
		},
		Series: []Series{{Plot: "p", Name: "a", Unit: "MiB", Points: []measure.Point{{Seconds: 0, Value: 1}, {Seconds: 2, Value: 3}}},
			{Plot: "empty", Name: "b"}},
	}}}
}

func TestPrint(t *testing.T) {
	var b strings.Builder
	if err := sample().Results[0].Print(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"fast    120    1/s   ≥ 100   yes  160 (75 %)", "large   70.0   KiB   ≤ 64.0  no", "0.123", "a note"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

func TestWrite(t *testing.T) {
	paths, err := sample().Write(t.TempDir() + "/new")
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(paths[0])
	if err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal(data, &back); err != nil || back.Results[0].Figures[0].Target == nil || len(back.Results[0].Series[0].Points) != 2 {
		t.Errorf("%v: %+v", err, back)
	}
	page, err := os.ReadFile(paths[1])
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"&lt;doc&gt;", `class="no"`, "<polyline", "64.0,161.0 628.0,59.0"} {
		if !strings.Contains(string(page), want) {
			t.Errorf("no %q in the page", want)
		}
	}
	if n := strings.Count(string(page), "<svg"); n != 1 {
		t.Errorf("%d plots", n)
	}
}
