// Package install holds what Seine is in a cluster: the Helm chart (folder
// chart) with its custom resource definitions, embedded, and its rendering into
// objects.
//
// Values enter, objects leave, in the order in which they are to be applied. The
// package talks to no cluster; package install/deploy applies what it renders,
// and package install/check looks at the result.
package install
