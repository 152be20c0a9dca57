package pods

import (
	"context"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/controller/pod/resolve"
	"arhat.dev/aranya/pkg/edge/agent/pods/admission"
	"arhat.dev/aranya/pkg/edge/agent/pods/criconfig"
	"arhat.dev/aranya/pkg/edge/agent/runtime/process"
	"arhat.dev/aranya/pkg/edge/agent/volumes"
)

// fieldTable is the table that this file holds against the API and the code.
const fieldTable = "../../../../docs/pod-fields.md"

// fieldRow is one field: what is done with it with CRI and by the process runtime, and what is said of it.
type fieldRow struct{ cri, process, note string }

var rowForm = regexp.MustCompile("(?m)^\\| `([A-Za-z0-9]+\\.[A-Za-z0-9*]+)` \\| ([^|]*) \\| ([^|]*) \\| ?([^|]*?) ?\\|$")

func readFieldTable(t *testing.T) map[string]fieldRow {
	t.Helper()
	data, err := os.ReadFile(fieldTable)
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]fieldRow{}
	for _, m := range rowForm.FindAllStringSubmatch(string(data), -1) {
		if _, twice := rows[m[1]]; twice {
			t.Errorf("%s has two rows", m[1])
		}
		rows[m[1]] = fieldRow{cri: m[2], process: m[3], note: m[4]}
	}
	if n := strings.Count(string(data), "\n| `"); n != len(rows) {
		t.Errorf("%d of %d rows are of the right form", len(rows), n)
	}
	return rows
}

// walkFields calls visit for each field in reach of a type; below those for which it returns false it
// does not go.
func walkFields(typ reflect.Type, seen map[reflect.Type]bool, visit func(field string) bool) {
	for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
		typ = typ.Elem()
	}
	if typ.Kind() != reflect.Struct || typ.PkgPath() != reflect.TypeFor[v1.Pod]().PkgPath() || seen[typ] {
		return
	}
	seen[typ] = true
	for i := range typ.NumField() {
		f := typ.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" { // inlined: its fields are this type's own
			walkFields(f.Type, seen, visit)
		} else if visit(typ.Name() + "." + name) {
			walkFields(f.Type, seen, visit)
		}
	}
}

// TestFieldTableIsComplete finds fields without a row, and rows without a field.
func TestFieldTableIsComplete(t *testing.T) {
	rows := readFieldTable(t)
	used := map[string]bool{}
	visit := func(field string) bool {
		if strings.HasPrefix(field, "EphemeralContainerCommon.") {
			used["EphemeralContainerCommon.*"] = true
			return false // as in Container
		}
		row, ok := rows[field]
		if !ok {
			t.Errorf("%s has no row", field)
		}
		used[field] = true
		return row.cri == "supported"
	}
	seen := map[reflect.Type]bool{}
	walkFields(reflect.TypeFor[v1.PodSpec](), seen, visit)
	walkFields(reflect.TypeFor[v1.PodStatus](), seen, visit)
	for field, row := range rows {
		if !used[field] {
			t.Errorf("%s has a row, but the API has no such field, or it belongs to one that is not supported", field)
		}
		if row.cri != "supported" && row.cri != "refused" && row.cri != "n/a" {
			t.Errorf("%s is %q", field, row.cri)
		}
		if row.cri != "supported" && row.note == "" {
			t.Errorf("%s is %s: why, or in which words?", field, row.cri)
		}
	}
	// One row stands for all fields of ephemeral containers, as they are those of Container.
	common, container := reflect.TypeFor[v1.EphemeralContainerCommon](), reflect.TypeFor[v1.Container]()
	for i := range common.NumField() {
		name := common.Field(i).Name
		if f, ok := container.FieldByName(name); !ok || f.Type != common.Field(i).Type {
			t.Errorf("EphemeralContainerCommon.%s is not as in Container", name)
		}
	}
}

// refusals asks the code about each field that it refuses, at least with some value, and returns its words.
var refusals = map[string]func(*testing.T) string{
	"PodSpec.hostUsers": func(*testing.T) string {
		_, _, err := criconfig.Sandbox(podOf(v1.PodSpec{HostUsers: ptr.To(false)}), &criconfig.Node{}, 0)
		return err.Error()
	},
	"PodSpec.resourceClaims":      claimsRefused,
	"ResourceRequirements.claims": claimsRefused,
	"PodSpec.os": func(*testing.T) string {
		return admission.NewLedger().Claim(podOf(v1.PodSpec{OS: &v1.PodOS{Name: v1.Windows}})).Message
	},
	"Container.ports": func(*testing.T) string {
		ledger := admission.NewLedger()
		for _, uid := range []types.UID{"a", "b"} {
			pod := podOf(v1.PodSpec{Containers: []v1.Container{{Ports: []v1.ContainerPort{{HostPort: 80}}}}})
			pod.UID = uid
			if r := ledger.Claim(pod); r != nil {
				return r.Message
			}
		}
		return ""
	},
	"PodSecurityContext.sysctls": func(*testing.T) string {
		return messageOf(v1.PodSpec{SecurityContext: &v1.PodSecurityContext{Sysctls: []v1.Sysctl{{Name: "net.core.somaxconn"}}}})
	},
	"PodSecurityContext.supplementalGroupsPolicy": func(*testing.T) string {
		return messageOf(v1.PodSpec{SecurityContext: &v1.PodSecurityContext{SupplementalGroupsPolicy: ptr.To(v1.SupplementalGroupsPolicyStrict)}})
	},
	"SecurityContext.appArmorProfile": func(t *testing.T) string {
		if apparmorEnabled() {
			t.Skip("this kernel has AppArmor")
		}
		return messageOf(v1.PodSpec{SecurityContext: &v1.PodSecurityContext{AppArmorProfile: &v1.AppArmorProfile{Type: v1.AppArmorProfileTypeRuntimeDefault}},
			Containers: []v1.Container{{Name: "c"}}})
	},
	"VolumeMount.recursiveReadOnly": func(*testing.T) string {
		_, err := criconfig.RecursiveReadOnly(&v1.VolumeMount{ReadOnly: true, RecursiveReadOnly: ptr.To(v1.RecursiveReadOnlyEnabled)}, criconfig.Features{})
		return err.Error()
	},
	"VolumeMount.bindMountOptions": func(t *testing.T) string {
		return containerRefused(t, v1.Container{VolumeMounts: []v1.VolumeMount{{Name: "v", BindMountOptions: []string{"noexec"}}}})
	},
	"Container.volumeDevices": func(t *testing.T) string {
		return containerRefused(t, v1.Container{VolumeDevices: []v1.VolumeDevice{{Name: "v"}}})
	},
	"LifecycleHandler.tcpSocket": func(t *testing.T) string {
		return (&pass{}).runHook(t.Context(), nil, "", &v1.LifecycleHandler{TCPSocket: &v1.TCPSocketAction{}}, 1).Error()
	},
	"VolumeProjection.podCertificate": func(t *testing.T) string {
		return projectionRefused(t, v1.VolumeProjection{PodCertificate: &v1.PodCertificateProjection{}})
	},
	"KeyToPath.user":                      userRefused(v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{Items: []v1.KeyToPath{{User: someUser}}}}),
	"ConfigMapVolumeSource.defaultUser":   userRefused(v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{DefaultUser: someUser}}),
	"SecretVolumeSource.defaultUser":      userRefused(v1.VolumeSource{Secret: &v1.SecretVolumeSource{DefaultUser: someUser}}),
	"DownwardAPIVolumeSource.defaultUser": userRefused(v1.VolumeSource{DownwardAPI: &v1.DownwardAPIVolumeSource{DefaultUser: someUser}}),
	"DownwardAPIVolumeFile.user": userRefused(v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{
		{DownwardAPI: &v1.DownwardAPIProjection{Items: []v1.DownwardAPIVolumeFile{{User: someUser}}}}}}}),
	"ProjectedVolumeSource.defaultUser": userRefused(v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{DefaultUser: someUser}}),
	"ServiceAccountTokenProjection.user": userRefused(v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{
		{ServiceAccountToken: &v1.ServiceAccountTokenProjection{User: someUser}}}}}),
	"ClusterTrustBundleProjection.user": userRefused(v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{
		{ClusterTrustBundle: &v1.ClusterTrustBundleProjection{User: someUser}}}}}),
}

// processRefusals are those of the process runtime alone.
var processRefusals = map[string]func(*testing.T) string{
	"PodSpec.runtimeClassName": func(t *testing.T) string {
		_, err := (&process.Runtime{}).RunPodSandbox(t.Context(), &runtimeapi.PodSandboxConfig{}, "runsc")
		return err.Error()
	},
}

var someUser = ptr.To[int64](7)

func podOf(spec v1.PodSpec) *v1.Pod {
	pod := newPod("p")
	pod.Spec = spec
	return pod
}

func messageOf(spec v1.PodSpec) string {
	_, message := unsupported(podOf(spec), criconfig.Features{})
	return message
}

func claimsRefused(*testing.T) string {
	return messageOf(v1.PodSpec{ResourceClaims: []v1.PodResourceClaim{{Name: "c"}}})
}

func userRefused(source v1.VolumeSource) func(*testing.T) string {
	return func(*testing.T) string {
		return messageOf(v1.PodSpec{Volumes: []v1.Volume{{Name: "v", VolumeSource: source}}})
	}
}

func containerRefused(t *testing.T, c v1.Container) string {
	files := criconfig.Files{Volumes: volumes.New(t.TempDir(), true), Mounted: map[string]volumes.Mounted{"v": {Path: "/x"}}}
	_, err := criconfig.Container(podOf(v1.PodSpec{}), &c, &criconfig.Node{}, criconfig.Instance{Files: files})
	if err == nil {
		return ""
	}
	return err.Error()
}

func projectionRefused(_ *testing.T, source v1.VolumeProjection) string {
	pod := podOf(v1.PodSpec{EnableServiceLinks: ptr.To(false), Volumes: []v1.Volume{{Name: "v", VolumeSource: v1.VolumeSource{
		Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{source}}}}}})
	_, err := (&resolve.Resolver{}).Pod(context.Background(), pod)
	return err.Error()
}

// volumeRefused makes a volume of a type by its name in JSON.
func volumeRefused(t *testing.T, name string) string {
	volume := v1.Volume{Name: "v"}
	source := reflect.ValueOf(&volume.VolumeSource).Elem()
	for i := range source.NumField() {
		if tag, _, _ := strings.Cut(source.Type().Field(i).Tag.Get("json"), ","); tag == name {
			source.Field(i).Set(reflect.New(source.Field(i).Type().Elem()))
		}
	}
	_, err := volumes.New(filepath.Join(t.TempDir(), "pods"), false).Setup(podOf(v1.PodSpec{Volumes: []v1.Volume{volume}}), volumes.Source{})
	if err == nil {
		return ""
	}
	return err.Error()
}

// TestFieldTableTellsTheTruth compares what the table says of refused fields with what the code says.
func TestFieldTableTellsTheTruth(t *testing.T) {
	rows := readFieldTable(t)
	check := func(field string, refuse func(*testing.T) string) {
		t.Run(field, func(t *testing.T) {
			message := refuse(t)
			for _, quoted := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(rows[field].note, -1) {
				if strings.Contains(message, quoted[1]) && strings.Contains(quoted[1], " ") {
					return
				}
			}
			t.Errorf("the code says %q, the table %q", message, rows[field].note)
		})
	}
	for field, refuse := range refusals {
		check(field, refuse)
	}
	for field, refuse := range processRefusals {
		check(field, refuse)
	}
	for field, row := range rows {
		kind, isVolume := strings.CutPrefix(field, "VolumeSource.")
		switch {
		case row.cri == "refused" && isVolume:
			check(field, func(t *testing.T) string { return volumeRefused(t, kind) })
		case row.cri == "refused" && refusals[field] == nil:
			t.Errorf("%s is refused: by what?", field)
		}
	}
}

// TestProcessColumn checks that what the process runtime does not enforce is what it says.
func TestProcessColumn(t *testing.T) {
	rows := readFieldTable(t)
	everything := &runtimeapi.ContainerConfig{Linux: &runtimeapi.LinuxContainerConfig{
		Resources: &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 1},
		SecurityContext: &runtimeapi.LinuxContainerSecurityContext{Privileged: true, ReadonlyRootfs: true, Capabilities: &runtimeapi.Capability{DropCapabilities: []string{"ALL"}},
			Seccomp: &runtimeapi.SecurityProfile{}, Apparmor: &runtimeapi.SecurityProfile{}, SelinuxOptions: &runtimeapi.SELinuxOption{}},
	}}
	sandbox := &runtimeapi.PodSandboxConfig{PortMappings: []*runtimeapi.PortMapping{{HostPort: 80, ContainerPort: 8080}},
		Linux: &runtimeapi.LinuxPodSandboxConfig{Sysctls: map[string]string{"a": "b"}}}
	told := map[string]bool{}
	for _, name := range (&process.Runtime{}).Unenforced(everything, sandbox) {
		told[name] = true
	}
	mentioned := map[string]bool{}
	for field, row := range rows {
		name, unenforced := strings.CutPrefix(row.process, "not enforced: ")
		if unenforced {
			mentioned[name] = true
			if !told[name] {
				t.Errorf("%s: the runtime does not tell of %q", field, name)
			}
			continue
		}
		switch row.process {
		case "same", "refused", "n/a", "always", "no effect", "variable HOSTNAME":
		default:
			t.Errorf("%s: the process runtime does %q with it", field, row.process)
		}
	}
	for name := range told {
		if !mentioned[name] {
			t.Errorf("no row says that %s is not enforced", name)
		}
	}
}

// TestFieldTableNamesTests finds tests in the table that there are not.
func TestFieldTableNamesTests(t *testing.T) {
	data, err := os.ReadFile(fieldTable)
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Dir(filepath.Dir(fieldTable))
	exist := map[string]bool{}
	declared := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	for _, dir := range []string{"pkg/edge/agent", "pkg/controller", "test/e2e"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, entry os.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, "_test.go") {
				return err
			}
			source, err := os.ReadFile(path)
			for _, m := range declared.FindAllSubmatch(source, -1) {
				exist[string(m[1])] = true
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	named := regexp.MustCompile("`(Test[A-Z]\\w+)`").FindAllSubmatch(data, -1)
	if len(named) == 0 {
		t.Error("the table names no test")
	}
	for _, m := range named {
		if !exist[string(m[1])] {
			t.Errorf("there is no test %s", m[1])
		}
	}
}
