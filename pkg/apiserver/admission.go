package apiserver

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"
)

// fitAdmission leaves out, unless asked for, what the main cluster has no objects for: Kubernetes 1.35
// does not serve MutatingAdmissionPolicies in v1, and the plugin would wait for them for ever.
func (o *Options) fitAdmission(ctx context.Context, kube kubernetes.Interface) error {
	return retry(ctx, "the MutatingAdmissionPolicies of the main cluster", func(ctx context.Context) error {
		_, err := kube.AdmissionregistrationV1().MutatingAdmissionPolicies().List(ctx, metav1.ListOptions{Limit: 1})
		if !apierrors.IsNotFound(err) {
			return err
		}
		klog.FromContext(ctx).Info("The main cluster has no MutatingAdmissionPolicies: none is applied to EdgeDevices")
		o.Recommended.Admission.DefaultOffPlugins.Insert(mutating.PluginName)
		return nil
	})
}
