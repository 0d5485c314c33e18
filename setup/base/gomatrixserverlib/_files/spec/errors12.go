package spec

// UnableToGrantJoin is the error M_UNABLE_TO_GRANT_JOIN: this server may see that the user is allowed to join, but
// none of its users in the room has the power to authorise it; another server may be able to.
func UnableToGrantJoin(msg string) MatrixError {
	return MatrixError{ErrCode: "M_UNABLE_TO_GRANT_JOIN", Err: msg}
}
