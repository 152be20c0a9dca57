package artifacts

import (
	"os"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/component-helpers/auth/rbac/validation"
)

// call is something that aranya-apiserver does in the main cluster.
type call struct {
	why             string
	group, resource string
	verbs           string
	namespace, name string // empty: any
}

// calls lists what the code does; the end-to-end tests run under the rights of the manifests and find
// what is missing here.
var calls = []call{
	{why: "namespace lifecycle admission", resource: "namespaces", verbs: "get list watch"},
	{why: "admission webhooks", group: "admissionregistration.k8s.io", resource: "validatingwebhookconfigurations", verbs: "list watch"},
	{why: "admission webhooks", group: "admissionregistration.k8s.io", resource: "mutatingwebhookconfigurations", verbs: "list watch"},
	{why: "admission policies", group: "admissionregistration.k8s.io", resource: "validatingadmissionpolicies", verbs: "list watch"},
	{why: "admission policies", group: "admissionregistration.k8s.io", resource: "validatingadmissionpolicybindings", verbs: "list watch"},
	{why: "admission policies", group: "admissionregistration.k8s.io", resource: "mutatingadmissionpolicies", verbs: "list watch"},
	{why: "admission policies", group: "admissionregistration.k8s.io", resource: "mutatingadmissionpolicybindings", verbs: "list watch"},
	{why: "runtime handlers of pods", group: "node.k8s.io", resource: "runtimeclasses", verbs: "list watch"},
	{why: "priority and fairness", group: "flowcontrol.apiserver.k8s.io", resource: "flowschemas", verbs: "list watch"},
	{why: "priority and fairness", group: "flowcontrol.apiserver.k8s.io", resource: "prioritylevelconfigurations", verbs: "list watch"},
	{why: "caBundle", group: "apiregistration.k8s.io", resource: "apiservices", verbs: "get list watch patch", name: "v1alpha1.aranya.arhat.dev"},
	{why: "both CAs", resource: "secrets", verbs: "create", namespace: "aranya-system"},
	{why: "serving CA", resource: "secrets", verbs: "get list watch update", namespace: "aranya-system", name: "aranya-serving-ca"},
	{why: "device CA", resource: "secrets", verbs: "get", namespace: "aranya-system", name: "aranya-device-ca"},
	{why: "kubelet-serving certificate", group: "certificates.k8s.io", resource: "certificatesigningrequests", verbs: "create list watch"},
	{why: "kubelet-serving certificate", group: "certificates.k8s.io", resource: "certificatesigningrequests/approval", verbs: "update"},
	{why: "kubelet-serving certificate", group: "certificates.k8s.io", resource: "signers", verbs: "approve", name: "kubernetes.io/kubelet-serving"},
	{why: "Node per device", resource: "nodes", verbs: "get list watch create update patch delete"},
	{why: "Node per device", resource: "nodes/status", verbs: "patch"},
	{why: "Node heartbeat", group: "coordination.k8s.io", resource: "leases", verbs: "get list create update delete", namespace: "kube-node-lease"},
	{why: "pods on devices", resource: "pods", verbs: "list watch create delete"},
	{why: "pods on devices", resource: "pods/status", verbs: "patch"},
	{why: "what pods refer to", resource: "secrets", verbs: "list watch"},
	{why: "what pods refer to", resource: "configmaps", verbs: "list watch"},
	{why: "what pods refer to", group: "certificates.k8s.io", resource: "clustertrustbundles", verbs: "list watch"},
	{why: "environment of pods", resource: "services", verbs: "list watch"},
	{why: "Services of devices", resource: "services", verbs: "list watch create update delete"},
	{why: "Services of devices", group: "discovery.k8s.io", resource: "endpointslices", verbs: "get create update delete"},
	{why: "tokens of pods", resource: "serviceaccounts/token", verbs: "create"},
	{why: "events", resource: "events", verbs: "create patch"},
}

func (c *call) rule() rbacv1.PolicyRule {
	rule := rbacv1.PolicyRule{APIGroups: []string{c.group}, Resources: []string{c.resource}, Verbs: strings.Fields(c.verbs)}
	if c.name != "" {
		rule.ResourceNames = []string{c.name}
	}
	return rule
}

// serverRules returns what the server may do in a namespace: with "", in all of them.
func serverRules(t *testing.T, namespace string) []rbacv1.PolicyRule {
	t.Helper()
	var rules []rbacv1.PolicyRule
	for _, object := range installed(t) {
		switch role := object.(type) {
		case *rbacv1.ClusterRole:
			if len(role.Labels) == 0 || !isForUsers(role) {
				rules = append(rules, role.Rules...)
			}
		case *rbacv1.Role:
			if role.Namespace == namespace {
				rules = append(rules, role.Rules...)
			}
		}
	}
	return rules
}

func isForUsers(role *rbacv1.ClusterRole) bool {
	for label := range role.Labels {
		if strings.HasPrefix(label, "rbac.authorization.k8s.io/aggregate-to-") {
			return true
		}
	}
	return false
}

func TestServerMayDoWhatItDoes(t *testing.T) {
	for _, c := range calls {
		if ok, missing := validation.Covers(serverRules(t, c.namespace), []rbacv1.PolicyRule{c.rule()}); !ok {
			t.Errorf("%s: not granted: %+v", c.why, missing)
		}
	}
}

// TestServerMayDoNothingElse would fail if a right stayed behind after the code that needed it.
func TestServerMayDoNothingElse(t *testing.T) {
	// The condition of FlowSchemas is written only when servers disagree about it.
	needed := []rbacv1.PolicyRule{
		{APIGroups: []string{"flowcontrol.apiserver.k8s.io"}, Resources: []string{"flowschemas/status"}, Verbs: []string{"patch"}},
	}
	for i := range calls {
		needed = append(needed, calls[i].rule())
	}
	// Informers list and watch; a right to get what may be listed is none.
	for _, c := range calls {
		if strings.Contains(c.verbs, "list") {
			rule := c.rule()
			rule.Verbs = []string{"get"}
			needed = append(needed, rule)
		}
	}
	for _, namespace := range []string{"", "aranya-system", "kube-node-lease"} {
		for _, rule := range serverRules(t, namespace) {
			if slices.Contains(rule.Verbs, "*") || slices.Contains(rule.Resources, "*") || slices.Contains(rule.APIGroups, "*") {
				t.Errorf("a wildcard grants what nobody needs: %+v", rule)
			}
			if ok, extra := validation.Covers(needed, []rbacv1.PolicyRule{rule}); !ok {
				t.Errorf("granted in %q, but not needed: %+v", namespace, extra)
			}
		}
	}
}

// TestUsersStream would fail if a role let its users exec by WebSocket only or by SPDY only.
func TestUsersStream(t *testing.T) {
	edit := get[rbacv1.ClusterRole](t, "aranya:edit")
	for _, subresource := range []string{"exec", "attach", "portforward"} {
		want := rbacv1.PolicyRule{APIGroups: []string{"aranya.arhat.dev"}, Resources: []string{"edgedevices/" + subresource}, Verbs: []string{"get", "create"}}
		if ok, missing := validation.Covers(edit.Rules, []rbacv1.PolicyRule{want}); !ok {
			t.Errorf("%s: not granted: %+v", subresource, missing)
		}
	}
}

// TestViewersOnlyLook would fail if the cluster's role view could do more than see EdgeDevices.
func TestViewersOnlyLook(t *testing.T) {
	looking := []rbacv1.PolicyRule{{
		APIGroups: []string{"aranya.arhat.dev"}, Resources: []string{"edgedevices", "edgedevices/status"}, Verbs: []string{"get", "list", "watch"},
	}}
	view := get[rbacv1.ClusterRole](t, "aranya:view")
	if ok, extra := validation.Covers(looking, view.Rules); !ok {
		t.Errorf("view may also %+v", extra)
	}
	if ok, missing := validation.Covers(view.Rules, looking); !ok {
		t.Errorf("view may not %+v", missing)
	}
}

// TestRightsAreExplained: docs/install.md has a row for each right, and names no other.
func TestRightsAreExplained(t *testing.T) {
	text, err := os.ReadFile("../docs/install.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(text), "\n## Rights, line by line\n")
	table, _, ended := strings.Cut(table, "\n## ")
	if !found || !ended {
		t.Fatal("the table of rights is not where it was")
	}
	explained := map[string]bool{}
	for _, namespace := range []string{"", "aranya-system", "kube-node-lease"} {
		for _, rule := range serverRules(t, namespace) { // those for all namespaces each time
			subjects := rule.Resources
			if rule.APIGroups[0] == "admissionregistration.k8s.io" {
				subjects = rule.APIGroups // all that there is
			}
			right := quoted(subjects) + " " + strings.Join(rule.Verbs, ", ")
			if len(rule.ResourceNames) > 0 {
				right += " on " + quoted(rule.ResourceNames)
			}
			if explained[right] {
				continue
			}
			explained[right] = true
			// It ends there, or another verb would follow.
			before, after, found := strings.Cut(table, right)
			if !found || after[0] == ',' {
				t.Errorf("docs/install.md does not have %q", right)
				continue
			}
			table = before + after
		}
	}
	for _, verb := range []string{"get", "list", "watch", "create", "update", "patch", "delete", "approve"} {
		for row := range strings.Lines(table) {
			if rights, _, _ := strings.Cut(strings.TrimPrefix(row, "| "), " | "); slices.Contains(strings.FieldsFunc(rights, func(r rune) bool { return strings.ContainsRune(" ,;", r) }), verb) {
				t.Errorf("docs/install.md has %q, which no manifest grants", rights)
			}
		}
	}
}

// quoted are names as Markdown writes them.
func quoted(names []string) string { return "`" + strings.Join(names, "`, `") + "`" }
