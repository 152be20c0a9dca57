package conformance

import (
	"encoding/xml"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"
)

// outcome of the tests that a run selected. Each test is named as upstream names it.
type outcome struct {
	passed  []string
	failed  []result
	skipped []result // by the tests themselves
}

// result is a test and why it did not pass.
type result struct {
	name, reason string
}

// readReport reads the JUnit report of a run. Tests that were not selected are left out of it.
func readReport(file string) (*outcome, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var report struct {
		Suites []struct {
			Cases []struct {
				Name    string `xml:"name,attr"`
				Status  string `xml:"status,attr"`
				Skipped *struct {
					Message string `xml:"message,attr"`
				} `xml:"skipped"`
				Failure *message `xml:"failure"`
				Error   *message `xml:"error"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(data, &report); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	o := &outcome{}
	for _, suite := range report.Suites {
		for _, test := range suite.Cases {
			name, isTest := strings.CutPrefix(test.Name, "[It] ")
			switch {
			case test.Failure != nil:
				o.failed = append(o.failed, result{name, test.Failure.firstLine()})
			case test.Error != nil:
				o.failed = append(o.failed, result{name, test.Error.firstLine()})
			case !isTest: // set-up and clean-up count only if they fail
			case test.Skipped == nil:
				o.passed = append(o.passed, name)
			case test.Skipped.Message != "skipped": // by the test itself, with a reason
				o.skipped = append(o.skipped, result{name, strings.TrimPrefix(test.Skipped.Message, "skipped - ")})
			}
		}
	}
	sort.Strings(o.passed)
	for _, results := range [][]result{o.failed, o.skipped} {
		sort.Slice(results, func(i, j int) bool { return results[i].name < results[j].name })
	}
	return o, nil
}

type message struct {
	Message string `xml:"message,attr"`
	Text    string `xml:",chardata"`
}

func (m *message) firstLine() string {
	text := m.Message
	if text == "" {
		text = m.Text
	}
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return line
}

// print writes the table of results.
func (o *outcome) print(w io.Writer) {
	for _, name := range o.passed {
		_, _ = fmt.Fprintf(w, "passed   %s\n", name)
	}
	for _, r := range o.skipped {
		_, _ = fmt.Fprintf(w, "skipped  %s\n         %s\n", r.name, r.reason)
	}
	for _, r := range o.failed {
		_, _ = fmt.Fprintf(w, "FAILED   %s\n         %s\n", r.name, r.reason)
	}
	_, _ = fmt.Fprintf(w, "\n%d passed, %d failed, %d skipped by the tests themselves\n", len(o.passed), len(o.failed), len(o.skipped))
}
