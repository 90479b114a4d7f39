"""One read: which chunks a slice touches, checked and decoded."""
