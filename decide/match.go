package decide

type index struct{}
type matcher struct{}
type tcpMatcher struct{}
type rewrite struct{}
