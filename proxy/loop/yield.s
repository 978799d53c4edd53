// Lets yield.go declare a function without a body.
