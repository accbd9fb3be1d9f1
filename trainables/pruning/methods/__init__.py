"""The methods that train and prune iteration by iteration, one file each."""
