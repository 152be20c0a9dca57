package resolve

import (
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/ptr"
)

// runtimeHandler replaces the name of the pod's RuntimeClass by that of its handler, which is what the
// device's runtime knows. If the RuntimeClass is gone, a pod that its device has may keep its handler.
func (r *Resolver) runtimeHandler(plain *corev1.Pod, mayKeep bool, result *Result, missing *Unresolved) {
	name := plain.Spec.RuntimeClassName
	if name == nil || *name == "" {
		return
	}
	class, err := r.RuntimeClasses.Get(*name)
	switch {
	case err == nil:
		plain.Spec.RuntimeClassName = &class.Handler
		return
	case apierrors.IsNotFound(err) && mayKeep:
		plain.Spec.RuntimeClassName, result.KeepsHandler = ptr.To(""), true
		return
	case !apierrors.IsNotFound(err):
		err = fmt.Errorf("failed to get RuntimeClass %s: %w", *name, err)
	}
	missing.Sandbox = errors.Join(missing.Sandbox, err)
}
