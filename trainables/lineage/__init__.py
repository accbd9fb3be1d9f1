"""The lineage: one network trained, pruned, rewound and retrained. The product's heart."""
