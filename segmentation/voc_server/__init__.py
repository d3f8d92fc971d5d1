"""Files for VOC's evaluation server and for COCO's tools."""
