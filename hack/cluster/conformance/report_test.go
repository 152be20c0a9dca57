package conformance

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// report has what Ginkgo writes of a run, and tests that are none of it.
const report = `[{"SpecReports": [
	{"LeafNodeType": "SynchronizedBeforeSuite", "State": "passed"},
	{"ContainerHierarchyTexts": ["[sig-node] Pods [Feature:X]", "inner"], "LeafNodeType": "It", "LeafNodeText": "b", "State": "failed",
	 "Failure": {"Message": "it did not\nat all"}},
	{"ContainerHierarchyTexts": ["[sig-node] Pods"], "LeafNodeType": "It", "LeafNodeText": "a", "State": "passed"},
	{"ContainerHierarchyTexts": ["[sig-node] Pods"], "LeafNodeType": "It", "LeafNodeText": "not selected", "State": "skipped"},
	{"ContainerHierarchyTexts": ["[sig-cli] kubectl"], "LeafNodeType": "It", "LeafNodeText": "c", "State": "skipped", "Failure": {"Message": "not here"}},
	{"ContainerHierarchyTexts": ["[sig-cli] kubectl"], "LeafNodeType": "It", "LeafNodeText": "d", "State": "interrupted", "Failure": {"Message": "time is up"}},
	{"LeafNodeType": "SynchronizedAfterSuite", "State": "panicked", "Failure": {"Message": "oh"}}
]}]`

func TestReport(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, reportFile)
	if err := os.WriteFile(file, []byte(report), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := readReport(file)
	if err != nil {
		t.Fatal(err)
	}
	var table strings.Builder
	r.summarize(&table)
	const want = `
| tests | passed | failed | skipped themselves |
|---|--:|--:|--:|
| [sig-cli] kubectl | 0 | 1 | 1 |
| [sig-node] Pods | 1 | 1 | 0 |
| set-up and clean-up | 0 | 1 | 0 |
| all | 1 | 3 | 1 |

skipped [sig-cli] kubectl c
        not here

FAILED [sig-cli] kubectl d
        time is up

FAILED [sig-node] Pods [Feature:X] inner b
        it did not

FAILED` + " \n        oh\n\n"
	if table.String() != want {
		t.Errorf("got\n%s\nwant\n%s", table.String(), want)
	}
	if err := r.write(filepath.Join(dir, "results")); err != nil {
		t.Fatal(err)
	}
	lines, err := os.ReadFile(filepath.Join(dir, "results"))
	if err != nil || !strings.Contains(string(lines), "passed   [sig-node] Pods a\n") {
		t.Errorf("got\n%s, %v", lines, err)
	}
	if _, err := readReport(filepath.Join(dir, "none")); err == nil {
		t.Error("a report that is not there was read")
	}
}
