package restartpolicy

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

func TestShouldRestart(t *testing.T) {
	rules := []v1.ContainerRestartRule{{Action: v1.ContainerRestartRuleActionRestart,
		ExitCodes: &v1.ContainerRestartRuleOnExitCodes{Operator: v1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{42}}}}
	for _, tc := range []struct {
		name      string
		policy    v1.RestartPolicy
		container v1.Container
		code      int32
		want      bool
	}{
		{"always", v1.RestartPolicyAlways, v1.Container{}, 0, true},
		{"not said", "", v1.Container{}, 0, true},
		{"on failure, success", v1.RestartPolicyOnFailure, v1.Container{}, 0, false},
		{"on failure, failure", v1.RestartPolicyOnFailure, v1.Container{}, 1, true},
		{"never", v1.RestartPolicyNever, v1.Container{}, 1, false},
		{"the container's own policy", v1.RestartPolicyNever, v1.Container{RestartPolicy: ptr.To(v1.ContainerRestartPolicyAlways)}, 0, true},
		{"a rule", v1.RestartPolicyNever, v1.Container{RestartPolicy: ptr.To(v1.ContainerRestartPolicyNever), RestartPolicyRules: rules}, 42, true},
		{"no rule for it", v1.RestartPolicyNever, v1.Container{RestartPolicy: ptr.To(v1.ContainerRestartPolicyNever), RestartPolicyRules: rules}, 1, false},
	} {
		pod := &v1.Pod{Spec: v1.PodSpec{RestartPolicy: tc.policy}}
		if got := ShouldRestart(pod, &tc.container, tc.code); got != tc.want {
			t.Errorf("%s: got %v", tc.name, got)
		}
	}
}

func TestRestartsAll(t *testing.T) {
	c := &v1.Container{RestartPolicyRules: []v1.ContainerRestartRule{
		{Action: v1.ContainerRestartRuleActionRestart, ExitCodes: &v1.ContainerRestartRuleOnExitCodes{Operator: v1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{1}}},
		{Action: v1.ContainerRestartRuleActionRestartAllContainers, ExitCodes: &v1.ContainerRestartRuleOnExitCodes{Operator: v1.ContainerRestartRuleOnExitCodesOpNotIn, Values: []int32{0}}},
	}}
	for code, want := range map[int32]bool{0: false, 1: false, 2: true} {
		if got := RestartsAll(c, code); got != want {
			t.Errorf("%d: got %v, want what the first rule says that is about it", code, got)
		}
	}
	if !ShouldRestart(&v1.Pod{Spec: v1.PodSpec{RestartPolicy: v1.RestartPolicyNever}}, c, 2) {
		t.Error("a container that starts with all the others is not started")
	}
}

func TestMayEnd(t *testing.T) {
	rule := func(operator v1.ContainerRestartRuleOnExitCodesOperator, code int32) []v1.ContainerRestartRule {
		return []v1.ContainerRestartRule{{Action: v1.ContainerRestartRuleActionRestart,
			ExitCodes: &v1.ContainerRestartRuleOnExitCodes{Operator: operator, Values: []int32{code}}}}
	}
	always, onFailure := v1.Container{RestartPolicy: ptr.To(v1.ContainerRestartPolicyAlways)}, v1.Container{RestartPolicy: ptr.To(v1.ContainerRestartPolicyOnFailure)}
	never := v1.Container{RestartPolicy: ptr.To(v1.ContainerRestartPolicyNever)}
	in, notIn := never, never
	in.RestartPolicyRules = rule(v1.ContainerRestartRuleOnExitCodesOpIn, 42)
	notIn.RestartPolicyRules = rule(v1.ContainerRestartRuleOnExitCodesOpNotIn, 42)
	for name, tc := range map[string]struct {
		policy   v1.RestartPolicy
		init     []v1.Container
		main     []v1.Container // beside one that has no policy of its own
		deadline *int64
		want     bool
	}{
		"runs always":                         {policy: v1.RestartPolicyAlways},
		"runs always, by default":             {},
		"runs once":                           {policy: v1.RestartPolicyNever, want: true},
		"runs until it succeeds":              {policy: v1.RestartPolicyOnFailure, want: true},
		"has a container that runs once":      {policy: v1.RestartPolicyAlways, main: []v1.Container{always, never}, want: true},
		"has one that runs until it succeeds": {policy: v1.RestartPolicyAlways, main: []v1.Container{onFailure}, want: true},
		"has one that one code starts again":  {policy: v1.RestartPolicyAlways, main: []v1.Container{in}, want: true},
		"has one that all codes but one do":   {policy: v1.RestartPolicyAlways, main: []v1.Container{notIn}, want: true},
		"its initialization may fail":         {policy: v1.RestartPolicyAlways, init: []v1.Container{never}, want: true},
		"its initialization may take a while": {policy: v1.RestartPolicyAlways, init: []v1.Container{onFailure, always}},
		"may be active for so long":           {policy: v1.RestartPolicyAlways, deadline: ptr.To[int64](30), want: true},
	} {
		pod := &v1.Pod{Spec: v1.PodSpec{RestartPolicy: tc.policy, InitContainers: tc.init, Containers: append(tc.main, v1.Container{}), ActiveDeadlineSeconds: tc.deadline}}
		if got := MayEnd(pod); got != tc.want {
			t.Errorf("%s: got %t, want %t", name, got, tc.want)
		}
	}
}

func TestMayRestartAll(t *testing.T) {
	with := func(action v1.ContainerRestartRuleAction) []v1.Container {
		return []v1.Container{{Name: "a"}, {Name: "b", RestartPolicyRules: []v1.ContainerRestartRule{{Action: action}}}}
	}
	for name, tc := range map[string]struct {
		spec v1.PodSpec
		want bool
	}{
		"no rule":           {v1.PodSpec{Containers: []v1.Container{{Name: "a"}}}, false},
		"another rule":      {v1.PodSpec{Containers: with(v1.ContainerRestartRuleActionRestart)}, false},
		"a container":       {v1.PodSpec{Containers: with(v1.ContainerRestartRuleActionRestartAllContainers)}, true},
		"an init container": {v1.PodSpec{InitContainers: with(v1.ContainerRestartRuleActionRestartAllContainers)}, true},
	} {
		if got := MayRestartAll(&v1.Pod{Spec: tc.spec}); got != tc.want {
			t.Errorf("%s: got %t, want %t", name, got, tc.want)
		}
	}
}
