package ready

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
)

const ns = "seine-system"

func deployment(conditions ...appsv1.DeploymentCondition) *appsv1.Deployment {
	one := int32(1)
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "seined", Namespace: ns},
		Spec:       appsv1.DeploymentSpec{Replicas: &one, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "seined"}}},
		Status:     appsv1.DeploymentStatus{Conditions: conditions},
	}
}

func pod(status corev1.PodStatus) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "seined-1", Namespace: ns, UID: "u", Labels: map[string]string{"app": "seined"}}, Status: status}
}

func waiting(reason, message string) corev1.PodStatus {
	return corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "seined", Image: "seined:x", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}}}}
}

// Each trouble is named with what the cluster says, and a mend.
func TestDeployment(t *testing.T) {
	failure := func(m string) appsv1.DeploymentCondition {
		return appsv1.DeploymentCondition{Type: appsv1.DeploymentReplicaFailure, Status: corev1.ConditionTrue, Message: m}
	}
	crash := waiting("CrashLoopBackOff", "back-off 10s")
	crash.ContainerStatuses[0].LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 1, Reason: "Error", Message: "one\nseined: it broke\n"}
	running := corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "seined", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}}
	sidecarStatus := corev1.PodStatus{InitContainerStatuses: []corev1.ContainerStatus{{Name: "seine-proxy", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}}
	event := func(reason, message string) *corev1.Event {
		return &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: "e", Namespace: ns}, InvolvedObject: corev1.ObjectReference{UID: "u"}, Reason: reason, Message: message}
	}
	for name, c := range map[string]struct {
		objects     []runtime.Object
		cause, want string
	}{
		"image":      {[]runtime.Object{deployment(), pod(waiting("ImagePullBackOff", "not found"))}, "image", "image seined:x cannot be pulled: not found"},
		"quota":      {[]runtime.Object{deployment(failure(`pods "x" is forbidden: exceeded quota: small`))}, "quota", "raise the ResourceQuota"},
		"admission":  {[]runtime.Object{deployment(failure(`pods "x" is forbidden: violates PodSecurity "restricted:latest"`))}, "admission", "Pod Security"},
		"webhook":    {[]runtime.Object{deployment(failure(`Internal error occurred: failed calling webhook "x.example.com"`))}, "webhook", "x.example.com"},
		"scheduling": {[]runtime.Object{deployment(), pod(corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "0/1 nodes are available: 1 Insufficient memory."}}})}, "scheduling", "Insufficient memory"},
		"crash":      {[]runtime.Object{deployment(), pod(crash)}, "crash", "exit status 1: seined: it broke"},
		"probe":      {[]runtime.Object{deployment(), pod(running), event("Unhealthy", "Readiness probe failed: 503")}, "probe", "503"},
		"volume":     {[]runtime.Object{deployment(), pod(corev1.PodStatus{}), event("FailedMount", `configmap "x" not found`)}, "volume", `configmap "x"`},
		"sidecar": {[]runtime.Object{deployment(), pod(sidecarStatus), event("SidecarNotReady", "connections are not redirected"), func() *corev1.Event {
			e := event("Unhealthy", "Startup probe failed: 503")
			e.Name, e.LastTimestamp = "later", metav1.Now()
			return e
		}()}, "sidecar", "connections are not redirected"},
		"nothing": {[]runtime.Object{deployment()}, "starting", "no pod has been created"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Deployment(t.Context(), fake.NewClientset(c.objects...), ns, "seined")
			if err != nil || s.Ready || len(s.Reasons) == 0 {
				t.Fatalf("%+v %v", s, err)
			}
			if r := s.Reasons[0]; r.Cause != c.cause || !strings.Contains(r.String(), c.want) {
				t.Errorf("%s: %s", r.Cause, r)
			}
		})
	}
}

func TestDeploymentReady(t *testing.T) {
	d := deployment()
	d.Status = appsv1.DeploymentStatus{UpdatedReplicas: 1, AvailableReplicas: 1}
	if s, err := Deployment(t.Context(), fake.NewClientset(d), ns, "seined"); err != nil || !s.Ready {
		t.Errorf("%+v %v", s, err)
	}
	// the old pod still serves, the new one is not there yet
	d.Status = appsv1.DeploymentStatus{UpdatedReplicas: 0, AvailableReplicas: 1}
	if s, err := Deployment(t.Context(), fake.NewClientset(d), ns, "seined"); err != nil || s.Ready || s.Have != 0 {
		t.Errorf("%+v %v", s, err)
	}
	// the new pod is there and not available, the old one still is
	d.Status = appsv1.DeploymentStatus{Replicas: 2, UpdatedReplicas: 1, AvailableReplicas: 1}
	if s, err := Deployment(t.Context(), fake.NewClientset(d), ns, "seined"); err != nil || s.Ready || s.Have != 0 {
		t.Errorf("%+v %v", s, err)
	}
	if s, err := Deployment(t.Context(), fake.NewClientset(), ns, "seined"); err != nil || s.Ready || s.Exists {
		t.Errorf("%+v %v", s, err)
	}
}

// The pods of a template that has been replaced meanwhile are no reason any more.
func TestDeploymentNewestTemplate(t *testing.T) {
	d := deployment()
	d.UID, d.Annotations = "d", map[string]string{"deployment.kubernetes.io/revision": "2"}
	objects := []runtime.Object{d}
	for revision, message := range map[string]string{"1": "old is not found", "2": "new is not found"} {
		labels := map[string]string{"app": "seined", "pod-template-hash": revision}
		p := pod(waiting("ImagePullBackOff", message))
		p.Name, p.Labels = "seined-"+revision, labels
		owner := *metav1.NewControllerRef(d, appsv1.SchemeGroupVersion.WithKind("Deployment"))
		objects = append(objects, p, &appsv1.ReplicaSet{
			ObjectMeta: metav1.ObjectMeta{Name: "seined-" + revision, Namespace: ns, Labels: labels, OwnerReferences: []metav1.OwnerReference{owner},
				Annotations: map[string]string{"deployment.kubernetes.io/revision": revision}},
			Spec: appsv1.ReplicaSetSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}},
		})
	}
	s, err := Deployment(t.Context(), fake.NewClientset(objects...), ns, "seined")
	if err != nil || len(s.Reasons) != 1 || !strings.Contains(s.Reasons[0].Detail, "new is") {
		t.Errorf("%v, %+v", err, s)
	}
}
