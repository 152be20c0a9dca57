package intern

import (
	"reflect"
	"strings"
	"testing"
	"unsafe"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// fresh returns a string that nothing else points to.
func fresh(s string) string { return strings.Clone(s) }

func TestStrings(t *testing.T) {
	a, b, empty := fresh("same"), fresh("same"), ""
	if unsafe.StringData(a) == unsafe.StringData(b) {
		t.Fatal("the strings lie in one place before")
	}
	Strings(&a, &b, &empty)
	if a != "same" || b != "same" || empty != "" || unsafe.StringData(a) != unsafe.StringData(b) {
		t.Errorf("got %q, %q and %q", a, b, empty)
	}
}

func TestKeys(t *testing.T) {
	if Keys[string, string](nil) != nil {
		t.Error("nil became a map")
	}
	m := map[string]string{fresh("key"): "value"}
	if same := Keys(m); !reflect.DeepEqual(same, m) {
		t.Errorf("got %v", same)
	}
}

func TestObjects(t *testing.T) {
	conditions := func() []metav1.Condition {
		return []metav1.Condition{{Type: fresh("Ready"), Status: metav1.ConditionTrue, Reason: fresh("Good"), Message: fresh("All is well")}}
	}
	fields := func() []metav1.ManagedFieldsEntry {
		return []metav1.ManagedFieldsEntry{{
			Manager: fresh("somebody"), Operation: metav1.ManagedFieldsOperationApply, APIVersion: fresh("v1"),
			FieldsType: fresh("FieldsV1"), Subresource: fresh("status"), FieldsV1: &metav1.FieldsV1{},
		}}
	}
	a, b, fa, fb := conditions(), conditions(), fields(), fields()
	Conditions(a)
	Conditions(b)
	ManagedFields(fa)
	ManagedFields(fb)
	if !reflect.DeepEqual(a, conditions()) || !reflect.DeepEqual(fa, fields()) {
		t.Errorf("got %v and %v", a, fa)
	}
	if unsafe.StringData(a[0].Message) != unsafe.StringData(b[0].Message) || unsafe.StringData(fa[0].Manager) != unsafe.StringData(fb[0].Manager) {
		t.Error("equal strings lie in two places")
	}
}

func TestManagedFieldsShareSets(t *testing.T) {
	entry := func(set string) []metav1.ManagedFieldsEntry {
		return []metav1.ManagedFieldsEntry{{FieldsV1: metav1.NewFieldsV1(fresh(set))}}
	}
	a, b, other := entry(`{"f:spec":{}}`), entry(`{"f:spec":{}}`), entry(`{"f:status":{}}`)
	for _, entries := range [][]metav1.ManagedFieldsEntry{a, b, other} {
		ManagedFields(entries)
	}
	// Who sets the fields of one must not set those of others.
	b[0].FieldsV1.SetRawString(`{"f:metadata":{}}`)
	for want, entries := range map[string][]metav1.ManagedFieldsEntry{
		`{"f:spec":{}}`: a, `{"f:metadata":{}}`: b, `{"f:status":{}}`: other,
	} {
		if got := entries[0].FieldsV1.GetRawString(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
