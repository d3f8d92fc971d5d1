import json, time
from segmentation.training import train_task
from segmentation.confusion import read_matrix
from dataclasses import replace
def test_x(job, outcome, change, make_backbone):
    print(job.recipe)
    for kw in ({}, {"margin":"fcn"}, {"deconvolution":"fixed"}):
        for m in ("piggyback","feature","finetune"):
            t=time.time(); f=train_task(replace(change(job,**kw),method=m)); o=outcome(f)
            print(kw,m,time.time()-t, o["result"]["metrics"], [e["loss"] for e in o["epochs"]])
            print(read_matrix(f.root/"confusion.json").sum(0)[:8])
    j=replace(job,backbone=make_backbone("conv",hidden=False))
    for m in ("piggyback","feature","finetune"):
            f=train_task(replace(j,method=m)); o=outcome(f)
            print(m, o["result"]["metrics"], [e["loss"] for e in o["epochs"]])
            print(read_matrix(f.root/"confusion.json").sum(0)[:8])
