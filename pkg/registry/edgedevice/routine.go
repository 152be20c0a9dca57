package edgedevice

import (
	"net/http"

	"k8s.io/apimachinery/pkg/util/sets"
	genericmetrics "k8s.io/apiserver/pkg/endpoints/metrics"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/server/routine"

	"arhat.dev/aranya/pkg/apis/aranya"
)

// sessions are the subresources that StreamREST serves.
var sessions = sets.New("exec", "attach", "portforward")

// WithRoutine has sessions prepared in a goroutine of its own, and served when that is over by the one that
// called handler, which must be the innermost of the server: a session at rest then lacks the stack of
// routing, admission, the look at the device and the upgrade, which makes 16 KiB of the 32. What comes
// before handler, audit above all, sees the request end with the session, as ever.
func WithRoutine(handler http.Handler) http.Handler {
	return routine.WithRoutine(handler, func(_ *http.Request, info *request.RequestInfo) bool {
		return info != nil && info.APIGroup == aranya.GroupName && info.Resource == "edgedevices" && sessions.Has(info.Subresource)
	})
}

// serveLast serves a session when what prepared it has returned, or else here.
func serveLast(req *http.Request, serve func()) {
	task := routine.TaskFrom(req.Context())
	if task == nil {
		serve()
		return
	}
	task.Func = func() {
		// That of the request is counted until this is called only.
		info, _ := request.RequestInfoFrom(req.Context())
		genericmetrics.RecordLongRunning(req, info, genericmetrics.APIServerComponent, serve)
	}
}
