// Package report says what a benchmark found: as a table for a terminal, as JSON for programs and as
// an HTML page with plots. It knows nothing of how figures are taken.
package report

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"arhat.dev/aranya/hack/bench/measure"
)

// Figure is one result.
type Figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	// Target is what the value should be, nil if it only informs.
	Target *Target `json:"target,omitempty"`
	// Ceiling is what is possible at all, measured in the same run; nil if there is none.
	Ceiling *float64 `json:"ceiling,omitempty"`
	// Note tells what a reader needs to know about it.
	Note string `json:"note,omitempty"`
}

// Target is a bound.
type Target struct {
	// AtLeast says that the bound is a lower one.
	AtLeast bool    `json:"atLeast,omitempty"`
	Value   float64 `json:"value"`
}

// AtMost and AtLeast return targets.
func AtMost(v float64) *Target { return &Target{Value: v} }

// AtLeast returns a lower bound.
func AtLeast(v float64) *Target { return &Target{AtLeast: true, Value: v} }

// Met says whether a value meets the target.
func (t *Target) Met(v float64) bool {
	if t.AtLeast {
		return v >= t.Value
	}
	return v <= t.Value
}

func (t *Target) String() string {
	if t.AtLeast {
		return "≥ " + number(t.Value)
	}
	return "≤ " + number(t.Value)
}

// Result is what one scenario found.
type Result struct {
	Scenario string        `json:"scenario"`
	Doc      string        `json:"doc"`
	Command  string        `json:"command"`
	Params   Params        `json:"params"`
	Duration time.Duration `json:"durationNanoseconds"`
	Figures  []Figure      `json:"figures"`
	Series   []Series      `json:"series,omitempty"`
	// Error is set if the scenario did not come to its end.
	Error string `json:"error,omitempty"`
}

// Params are what a scenario was run with.
type Params struct {
	N                 int    `json:"n"`
	Link              string `json:"link"`
	ControllerManager string `json:"controllerManager"`
}

// Series is a value over time.
type Series struct {
	Plot   string          `json:"plot"`
	Name   string          `json:"name"`
	Unit   string          `json:"unit"`
	Points []measure.Point `json:"points"`
}

// Report is a whole run.
type Report struct {
	Date    time.Time `json:"date"`
	Machine string    `json:"machine"`
	Version string    `json:"version"`
	Results []Result  `json:"results"`
}

// Print writes the table of one result.
func (r *Result) Print(w io.Writer) error {
	_, _ = fmt.Fprintf(w, "\n%s: %s\n", r.Scenario, r.Doc)
	_, _ = fmt.Fprintf(w, "N=%d LINK=%s CM=%s, %s\n", r.Params.N, r.Params.Link, r.Params.ControllerManager, r.Duration.Round(time.Second))
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(tw, "FIGURE\tVALUE\tUNIT\tTARGET\tMET\tCEILING\tNOTE")
	for _, f := range r.Figures {
		target, met, ceiling := f.cells()
		_, _ = fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", f.Name, number(f.Value), f.Unit, target, met, ceiling, f.Note)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	if r.Error != "" {
		_, _ = fmt.Fprintf(w, "The scenario did not come to its end: %s\n", r.Error)
	}
	return nil
}

func (f *Figure) cells() (target, met, ceiling string) {
	if f.Target != nil {
		target, met = f.Target.String(), "no"
		if f.Target.Met(f.Value) {
			met = "yes"
		}
	}
	if f.Ceiling != nil {
		ceiling = number(*f.Ceiling)
		if *f.Ceiling != 0 {
			ceiling += fmt.Sprintf(" (%.0f %%)", 100*f.Value / *f.Ceiling)
		}
	}
	return target, met, ceiling
}

// number writes a value with three or more significant digits.
func number(v float64) string {
	switch a := max(v, -v); {
	case a == 0:
		return "0"
	case a >= 100:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	case a >= 1:
		return fmt.Sprintf("%.2f", v)
	default:
		return fmt.Sprintf("%.3g", v)
	}
}

// Names of the files of a report.
const (
	jsonFile = "report.json"
	htmlFile = "report.html"
)

// Write writes the JSON and the HTML file into a directory, which is created if it is missing. It
// returns their paths.
func (r *Report) Write(dir string) ([]string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return nil, err
	}
	paths := []string{filepath.Join(dir, jsonFile), filepath.Join(dir, htmlFile)}
	if err := os.WriteFile(paths[0], append(data, '\n'), 0o644); err != nil {
		return nil, err
	}
	page, err := r.html()
	if err != nil {
		return nil, err
	}
	return paths, os.WriteFile(paths[1], page, 0o644)
}
