package pods

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// parityTable names the tests that hold the behaviour of pods.
const parityTable = "../../../../docs/parity-tests.md"

var (
	testNames     = regexp.MustCompile(`\b(Test|Fuzz)[A-Za-z0-9]+`)
	testFunctions = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Za-z0-9]+)\(\w+ \*testing\.[TF]\)`)
)

// TestParityTableNamesTests finds rows that no test holds, and tests that are named but are not there.
func TestParityTableNamesTests(t *testing.T) {
	exists := map[string]bool{}
	err := filepath.WalkDir("../../../..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "node_modules" || strings.HasPrefix(d.Name(), ".") && strings.Trim(d.Name(), ".") != ""):
			return fs.SkipDir // what is built, and runs of clusters
		case d.IsDir() || !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range testFunctions.FindAllStringSubmatch(string(data), -1) {
			exists[m[1]] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(parityTable)
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for line := range strings.Lines(string(data)) {
		cells := strings.Split(strings.TrimSpace(line), " | ")
		if len(cells) != 2 || slices.Contains([]string{"held by |", "---|---|"}, cells[1]) {
			continue
		}
		rows++
		names := testNames.FindAllString(cells[1], -1)
		if len(names) == 0 {
			t.Errorf("nothing holds %q", cells[0])
		}
		for _, name := range names {
			if !exists[name] {
				t.Errorf("there is no %s", name)
			}
		}
	}
	if rows < 60 {
		t.Errorf("there are only %d rows", rows)
	}
}
