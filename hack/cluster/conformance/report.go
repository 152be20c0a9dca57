package conformance

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
)

// reportFile is Ginkgo's own report, in the report's directory.
const reportFile = "report.json"

// Verdicts on tests. A test that skips itself says why.
const (
	passed  = "passed"
	failed  = "FAILED"
	skipped = "skipped"
)

// result is what came of a test that was selected.
type result struct {
	group, name, verdict, reason string
}

// results of a run, by group and name.
type results []result

// readReport reads the report of a run. Tests that were not selected are left out of it.
func readReport(file string) (results, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var suites []struct {
		SpecReports []struct {
			ContainerHierarchyTexts    []string
			LeafNodeType, LeafNodeText string
			State                      string
			Failure                    struct{ Message string }
		}
	}
	if err := json.Unmarshal(data, &suites); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	var all results
	for _, suite := range suites {
		for _, spec := range suite.SpecReports {
			r := result{group: "set-up and clean-up", name: spec.LeafNodeText, verdict: failed}
			if len(spec.ContainerHierarchyTexts) > 0 {
				r.group = withoutTags(spec.ContainerHierarchyTexts[0])
				r.name = strings.Join(append(spec.ContainerHierarchyTexts, spec.LeafNodeText), " ")
			}
			r.reason, _, _ = strings.Cut(strings.TrimSpace(spec.Failure.Message), "\n")
			isTest := spec.LeafNodeType == "It"
			switch spec.State {
			case "passed":
				if r.verdict = passed; !isTest { // set-up and clean-up count only if they fail
					continue
				}
			case "skipped", "pending":
				if r.verdict = skipped; !isTest || r.reason == "" {
					continue
				}
			}
			all = append(all, r)
		}
	}
	slices.SortFunc(all, func(a, b result) int {
		return cmp.Or(cmp.Compare(a.group, b.group), cmp.Compare(a.name, b.name))
	})
	return all, nil
}

// withoutTags leaves the name of the group and its special interest group of a text.
func withoutTags(text string) string {
	var words []string
	for _, word := range strings.Fields(text) {
		if !strings.HasPrefix(word, "[") || strings.HasPrefix(word, "[sig-") {
			words = append(words, word)
		}
	}
	return strings.Join(words, " ")
}

func (r results) count(verdict string) (n int) {
	for i := range r {
		if r[i].verdict == verdict {
			n++
		}
	}
	return n
}

// write writes one line for each test.
func (r results) write(file string) (err error) {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := bufio.NewWriter(f)
	for i := range r {
		_, _ = fmt.Fprintf(w, "%-7s  %s\n", r[i].verdict, r[i].name)
		if r[i].reason != "" {
			_, _ = fmt.Fprintf(w, "         %s\n", r[i].reason)
		}
	}
	return w.Flush()
}

// summarize writes the table of groups, and what did not pass.
func (r results) summarize(w io.Writer) {
	groups := map[string]results{}
	for i := range r {
		groups[r[i].group] = append(groups[r[i].group], r[i])
	}
	_, _ = fmt.Fprint(w, "\n| tests | passed | failed | skipped themselves |\n|---|--:|--:|--:|\n")
	line := func(name string, of results) {
		_, _ = fmt.Fprintf(w, "| %s | %d | %d | %d |\n", name, of.count(passed), of.count(failed), of.count(skipped))
	}
	for _, group := range slices.Sorted(maps.Keys(groups)) {
		line(group, groups[group])
	}
	line("all", r)
	for _, verdict := range []string{skipped, failed} {
		for i := range r {
			if r[i].verdict == verdict {
				_, _ = fmt.Fprintf(w, "\n%s %s\n        %s\n", verdict, r[i].name, r[i].reason)
			}
		}
	}
	_, _ = fmt.Fprintln(w)
}
