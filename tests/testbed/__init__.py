"""A small cloud on one machine: VPC, nodes, a stand-in for kubelet and Multus, and a VM where ipvlan is missing."""
