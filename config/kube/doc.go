// Package kube reads users' resources from a Kubernetes cluster and follows
// them.
//
// In: lists and watches of the API server. Out: config.Events, as config/files
// gives them: one when everything was read once, and one for each change, level
// by level: of a burst only its end counts. Resources go through the same
// decoder as files; Pods and EndpointSlices become workloads and backends of
// the model, and only those that changed are converted again. A change of pods
// or endpoints alone decodes nothing.
//
// It holds of each object only what the mesh uses, never a Secret. What the API
// server says last stands while it is away. A resource that became invalid keeps
// the last good version of it in the mesh. It writes nothing.
package kube
